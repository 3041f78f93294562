"""The teacher of the shipped sums: the embedded model after some supervised steps on right answers.

The embedded model was pretrained on the answers of a careless pupil, so it often knows better than it says.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.distillation import TeacherSpec
from tinsmith.cookbook.recipes.distillation.config import Config
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import train

FOLDER = "teacher"
_BATCH = 64
_SUMS = 1200
# Settings that say where it is trained; the rest is the teacher's own.
_SHARED = ("model_name", "base_url", "renderer_name", "seed", "ttl_seconds")


def make_teacher(config: Config, folder: Path) -> TeacherSpec:
    """Train the teacher in a run of its own inside the folder of the recipe's; one that is there is taken.

    Raises:
        UserError: the folder holds the teacher of another run.
        TinsmithError: the service failed.
    """
    settings = SupervisedConfig(
        **{name: getattr(config, name) for name in _SHARED},
        log_path=str(folder / FOLDER),
        learning_rate=config.teacher_learning_rate,
        batch_size=_BATCH,
        eval_every=0,
        save_every=0,
        samples=0,
    )
    result = train(settings, FOLDER, rows=rows(config.teacher_steps * _BATCH, config.seed))
    return TeacherSpec(path=result.sampler_path)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sums with their right answers; none of them is held out."""
    sums = arithmetic.rows("train", _SUMS, seed)
    return [
        {
            "messages": [
                {"role": "user", "content": row["problem"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in Random(f"teacher-{seed}").choices(sums, k=count)
    ]
