"""The settings of `math_rl`."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.problems.sources import ARITHMETIC
from tinsmith.cookbook.rl import RewardMap, RLConfig
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid


def _held_out(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None and not value > 0:
        raise invalid(field.removeprefix("X_"), value, "a number of problems, or a share of them below 1.0")


@chz.chz
class Config(RLConfig):
    """Which problems, how they are asked and what an answer is worth; the rest is that of reinforcement learning."""

    env: str = chz.field(
        default=ARITHMETIC,
        doc="arithmetic, gsm8k, math, a JSONL, Parquet or CSV file of problem and answer, or owner/name of the hub",
    )
    test: str | None = chz.field(
        default=None,
        doc="held-out problems: a file, or owner/name of the hub (its test split); None: those of env",
    )
    held_out: int | float | None = chz.field(
        default=None,
        validator=_held_out,
        doc="where env has no test split: problems, or the share of them below 1.0, held out of training; None: 200, "
        "or a tenth of fewer than 2,000",
    )
    skip_bad_rows: bool = chz.field(default=False, doc="leave out rows that are no problems; they are counted")
    eval_problems: int | None = chz.field(
        default=None, validator=at_least(1), doc="most held-out problems that an evaluation asks; None: all"
    )
    eval_temperature: float = chz.field(
        default=1.0, validator=at_least(0), doc="of the answers to them; 1 is what training samples, 0 is greedy"
    )
    system_prompt: str | None = chz.field(default=None, doc="text of the system message before each question")
    few_shot: str | None = chz.field(
        default=None,
        doc="examples before each question: standard (one, worked), or a JSONL file of conversations; None: none",
    )
    reward_correct: float = chz.field(default=1.0, doc="for a right answer")
    reward_wrong: float = chz.field(default=0.0, doc="for a wrong one, or none; -1 for rewards of +1 and -1")
    reward_boxed: float = chz.field(default=0.1, doc="on top, for an answer in a box")
    reward_unboxed: float = chz.field(default=0.0, doc="on top, for one without; below 0 is a penalty")
    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="problems per step; None: 16, or fewer where 10 batches are not filled"
    )
    eval_every: int = chz.field(default=10, validator=at_least(0), doc="steps between evaluations; 0: only at the end")

    def rewards(self) -> RewardMap:
        """Return what an answer is worth."""
        return RewardMap(self.reward_correct, self.reward_wrong, self.reward_boxed, self.reward_unboxed)
