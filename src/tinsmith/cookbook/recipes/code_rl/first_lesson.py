"""The first lesson: what a program looks like, learned from a careless pupil's, before the first reward.

The embedded model was pretrained without a line of code, and what never happens cannot be rewarded. So it is shown
problems and the programs of a pupil who is right in 30 % of them, and in 40 % makes the slip of the kind (`s[3:]` for
`s[:3]`). After that it writes Python, mostly the wrong one: which programs are right is left to the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tinsmith.cookbook.eval import Evaluator
from tinsmith.cookbook.recipes.code_rl.config import Config
from tinsmith.cookbook.recipes.code_rl.drawn_problems import draw, pupil
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import train
from tinsmith.cookbook.training import TrainResult

FOLDER = "first_lesson"
_BATCH = 16
# Settings that say which model is trained where; the rest is the lesson's own.
_ADAPTER = ("lora_rank", "train_attn", "train_mlp", "train_unembed")
_SHARED = ("model_name", "base_url", "renderer_name", *_ADAPTER, "seed", "ttl_seconds")


def teach(config: Config, folder: Path, evaluators: Sequence[Evaluator]) -> TrainResult:
    """Train on the pupil's programs, in a run of its own inside the folder of the recipe's.

    The evaluators measure before the first step, which is the base model, and after the last.

    Raises:
        UserError: the folder holds the lesson of another run.
        TinsmithError: the service failed.
    """
    lesson = SupervisedConfig(
        **{name: getattr(config, name) for name in _SHARED},
        log_path=str(folder / FOLDER),
        learning_rate=config.lesson_learning_rate,
        batch_size=_BATCH,
        eval_every=config.lesson_steps,
        save_every=0,
        samples=0,
    )
    return train(lesson, FOLDER, rows=rows(config.lesson_steps * _BATCH, config.seed), evaluators=evaluators)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return conversations in which a pupil answers; none of the problems is held out."""
    rng = Random(f"pupil-{seed}")
    # Other problems than those of the rewards, as far as fourteen kinds go.
    drawn = draw("train", count, seed + 1)
    return [
        {
            "messages": [
                {"role": "user", "content": each.problem.statement},
                {"role": "assistant", "content": pupil(rng, each, drawn)},
            ]
        }
        for each in drawn
    ]
