"""The settings of distillation."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.rl import RLConfig
from tinsmith.cookbook.schedules import Schedule
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid

# Settings of reinforcement learning that are about rewards, and what they have to be here.
_OF_REWARDS = {
    "advantages": "mean",
    "turn_discount": None,
    "remove_constant_reward_groups": False,
    "kl_penalty_coef": 0.0,
}
# Settings that a sum over likeliest tokens has no use for.
_OF_SAMPLED_TOKENS = {"loss_fn": "importance_sampling", "loss_fn_config": None, "kl_discount": 0.0}

# Settings of rollouts, which nobody does where the teacher speaks.
OF_ROLLOUTS = {
    "max_steps_off_policy": 0,
    "stream_minibatches": 0,
    "num_substeps": 1,
    "loss_fn": "importance_sampling",
    "loss_fn_config": None,
    "kl_discount": 0.0,
    "on_high_kl": "warn",
}


def _discount(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise invalid(field.removeprefix("X_"), value, "0 to 1")


@chz.chz
class DistillationConfig(RLConfig):
    """The settings of distillation; a step is `batch_size` prompts with `group_size` answers to each."""

    # The target stays where it is, so the last steps are for coming to rest on it.
    lr_schedule: Schedule = chz.field(default="linear", doc="constant, linear or cosine, from the peak rate to 0")
    batch_size: int = chz.field(default=64, validator=at_least(1), doc="prompts per step")
    group_size: int = chz.field(
        default=4, validator=at_least(1), doc="answers to each: of the student, or off-policy of the teacher"
    )
    # There are no rewards that could differ.
    remove_constant_reward_groups: bool = chz.field(default=False, doc="has to be false: there are no rewards")
    top_k: int = chz.field(
        default=0,
        validator=at_least(0),
        doc="compare with the teacher's k likeliest tokens at each place; 0: with the token that was said",
    )
    kl_discount: float = chz.field(
        default=0.0, validator=_discount, doc="on-policy: how much of later tokens' KL counts for a token, 0 to 1"
    )

    @chz.validate
    def _distillation(self) -> None:
        for name, expected in _OF_REWARDS.items():
            if getattr(self, name) != expected:
                raise invalid(name, getattr(self, name), f"{expected}: distillation learns from no rewards")
        for name, expected in _OF_SAMPLED_TOKENS.items():
            if self.top_k and getattr(self, name) != expected:
                raise invalid(name, getattr(self, name), f"{expected}, or top_k=0: it is about sampled tokens")


def check_off_policy(config: DistillationConfig) -> None:
    """Check that no setting is given that is about rollouts.

    Raises:
        UserError: one is.
    """
    for name, expected in OF_ROLLOUTS.items():
        if getattr(config, name) != expected:
            raise invalid(name, getattr(config, name), f"{expected}: off-policy nothing is rolled out")
