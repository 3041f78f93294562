"""The settings of the recipe."""

from __future__ import annotations

import chz

from tinsmith.cookbook.preference.dpo import DPOConfig
from tinsmith.cookbook.utils import at_least, positive


@chz.chz
class Config(DPOConfig):
    """Which comparisons are learned, by which loss, and what is asked of the policy."""

    learning_rate: float | None = chz.field(
        default=None, validator=positive, doc="peak rate of Adam; None: a quarter of the course's formula for the model"
    )
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest answer that an evaluation samples")
    judge_model: str | None = chz.field(
        default=None, doc="model that compares the policy's answers with the chosen ones, for eval/win_rate"
    )
    reward_model: str | None = chz.field(
        default=None, doc="tinker:// reward model that compares them, for eval/reward_win_rate"
    )
    eval_every: int = chz.field(default=10, validator=at_least(0), doc="steps between evaluations; 0: only at the end")
