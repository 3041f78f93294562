"""Reinforcement learning with all that the trainer has: held-out problems, losses, transcripts, one dial for speed.

    python -m tinsmith.cookbook.recipes.rl_basic
    python rl_basic.py model_name=Qwen/Qwen3-8B env=gsm8k batch_size=64 group_size=16 max_tokens=512 log_path=runs/mine

Without arguments the embedded model learns to add, and sums that it never trained on say how well. The loop itself is
`training/training_loop.py`, a step of it `rl/trainer/trainer.py`; `rl_loop.py` is the same without any of it, to be
read first. An environment of one's own takes the place of `MathEnv`: docs/environments.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chz

from tinsmith.cookbook.problems import Problem, load_problems
from tinsmith.cookbook.recipes.math_rl.math_rl_env import MathEnv
from tinsmith.cookbook.rl import ItemDataset, MakeDataset, RepeatedEnv, RLConfig, RLDataset, RolloutEvaluator, train
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.training import ModelSetup, TrainResult
from tinsmith.cookbook.utils import at_least


@chz.chz
class Config(RLConfig):
    """Which problems; the rest is that of reinforcement learning."""

    env: str = chz.field(
        default="arithmetic",
        doc="arithmetic, gsm8k, math, a JSONL file of problem and answer, or owner/name of the hub",
    )
    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="problems per step; None: 16, or fewer where 10 batches are not filled"
    )


def groups_of(problems: Sequence[Problem], group_size: int, **batches: Any) -> MakeDataset:
    """Return what makes a data set for a model: each problem is a group of as many environments."""

    def make(model: ModelSetup) -> RLDataset:
        def group(problem: Problem) -> RepeatedEnv:
            return RepeatedEnv(lambda: MathEnv(problem.problem, problem.answer, model.renderer), group_size)

        return ItemDataset(problems, group, **batches)

    return make


def main(config: Config) -> TrainResult:
    """Train, evaluate and save.

    Raises:
        UserError: a setting or a problem cannot be used.
        TinsmithError: the service failed.
    """
    problems = load_problems(config.env, seed=config.seed)
    size = rows_per_batch(config.batch_size, len(problems.train), usual=16, what="problems")
    config = chz.replace(config, batch_size=size)
    # What a run that is taken up again is held to.
    facts = problems.facts()
    learned = groups_of(
        problems.train, config.group_size, batch_size=config.batch_size, seed=config.seed, described=facts
    )
    # Asked once each, in their own order, so that every evaluation is the same.
    held_out = groups_of(problems.test, 1, batch_size=config.batch_size, seed=None)
    evaluators = [RolloutEvaluator(held_out, config.limits(), problems.name)]
    return train(config, "rl_basic", learned, evaluators=evaluators)


if __name__ == "__main__":
    run_recipe(main, Config, "rl_basic")
