"""The settings of `code_rl`."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.code_execution import Limits
from tinsmith.cookbook.rl import RewardMap, RLConfig
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.errors import invalid

DRAWN, BASICS = "drawn", "basics"
# An eighth of the formula's for the embedded model, at which it soon writes one program whatever is asked.
DRAWN_LEARNING_RATE = 5e-4


def _held_out(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise invalid(field.removeprefix("X_"), value, "a number of problems, or a share of them below 1.0")


@chz.chz
class Config(RLConfig):
    """Which problems, how programs are run and what they are worth; the rest is that of reinforcement learning."""

    env: str | None = chz.field(
        default=None,
        doc="drawn, basics (twenty Python problems), or a JSONL file; None: drawn for the embedded model, else basics",
    )
    learning_rate: float | None = chz.field(
        default=None,
        validator=positive,
        doc=f"peak rate of Adam; None: {DRAWN_LEARNING_RATE} for drawn, else the formula",
    )
    drawn: int = chz.field(default=400, validator=at_least(20), doc="problems to draw, held-out ones included")
    held_out: int | float = chz.field(
        default=0.25, validator=_held_out, doc="problems, or the share of them below 1.0, that are not trained on"
    )
    lesson_steps: int = chz.field(
        default=140,
        validator=at_least(0),
        doc="drawn problems: supervised steps on a careless pupil's programs before the first reward; 0: none",
    )
    lesson_learning_rate: float = chz.field(default=3e-3, validator=positive, doc="peak rate of these steps")
    partial_credit: bool = chz.field(default=False, doc="the share of tests passed as reward, not all or nothing")
    reward_correct: float = chz.field(default=1.0, doc="for a program that passes")
    reward_wrong: float = chz.field(default=0.0, doc="for one that does not")
    reward_format: float = chz.field(default=0.1, doc="on top, for a program in a fence, or one that compiles")
    reward_no_format: float = chz.field(default=0.0, doc="on top, for another answer; below 0 is a penalty")

    require_isolation: bool = chz.field(
        default=False, doc="refuse to run where programs could read files or use the network"
    )
    max_parallel: int | None = chz.field(
        default=None, validator=at_least(1), doc="programs that run at once; None: as many as there are cores"
    )
    test_seconds: float = chz.field(default=10.0, validator=positive, doc="wall clock of all tests of a problem")
    test_cpu_seconds: int = chz.field(default=5, validator=at_least(1), doc="processor time of each process in them")
    test_memory_mib: int = chz.field(default=512, validator=at_least(64), doc="address space of each process, in MiB")

    eval_temperature: float = chz.field(
        default=1.0, validator=at_least(0), doc="of the answers to held-out problems; 1 as in training, 0 is greedy"
    )
    batch_size: int = chz.field(default=8, validator=at_least(1), doc="problems per step")
    max_tokens: int = chz.field(default=32, validator=at_least(1), doc="longest answer, in tokens")
    eval_every: int = chz.field(default=20, validator=at_least(0), doc="steps between evaluations; 0: only at the end")

    def rewards(self) -> RewardMap:
        """Return what an answer is worth."""
        return RewardMap(self.reward_correct, self.reward_wrong, self.reward_format, self.reward_no_format)

    def test_limits(self) -> Limits:
        """Return what a program may use."""
        return Limits(self.test_seconds, self.test_cpu_seconds, self.test_memory_mib << 20)
