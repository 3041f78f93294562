"""The settings of reinforcement learning."""

from __future__ import annotations

from typing import Any, Literal

import chz

from tinsmith.cookbook.rl.learning.advantages import ADVANTAGES
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.limits import RolloutLimits
from tinsmith.cookbook.schedules import Schedule
from tinsmith.cookbook.training import TrainingConfig
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.errors import invalid
from tinsmith.types.facts.loss_table import resolve_config

# Settings that may change when a run is taken up again, beside those of every run.
FREE = ("epochs", "groups_shown", "on_env_error", "env_retries", "min_group_size")

LossName = Literal["importance_sampling", "ppo", "cispo", "gspo", "dro", "stable_reinforce", "cross_entropy"]


def _advantages(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value not in ADVANTAGES:
        raise invalid(field.removeprefix("X_"), value, f"one of {', '.join(ADVANTAGES)}")


def discount_or_none(config: Any, field: str) -> None:
    """Check a discount: 0 to 1, or None."""
    value = getattr(config, field)
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise invalid(field.removeprefix("X_"), value, "0 to 1, or None")


def _share(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, int | float) and not value >= 0:
        raise invalid(field.removeprefix("X_"), value, "a number that is not negative")


@chz.chz
class RLConfig(TrainingConfig):
    """The settings of reinforcement learning; a step is `batch_size` groups of `group_size` episodes."""

    # The rewards of late steps are worth as much as those of the first, so the rate stays where it is.
    lr_schedule: Schedule = chz.field(default="constant", doc="constant, linear or cosine, from the peak rate to 0")
    batch_size: int = chz.field(default=128, validator=at_least(1), doc="groups (problems) per step")
    group_size: int = chz.field(default=16, validator=at_least(1), doc="episodes per group; advantages compare them")
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the problems are gone through")

    loss_fn: LossName = chz.field(default="importance_sampling", doc="what is minimised")
    loss_fn_config: dict[str, float] | None = chz.field(
        default=None, doc="settings of the loss: loss_fn_config.clip_high_threshold=1.28"
    )
    advantages: str = chz.field(
        default="mean", validator=_advantages, doc="of an episode among its group: mean, mean_std or leave_one_out"
    )
    turn_discount: float | None = chz.field(
        default=None,
        validator=discount_or_none,
        doc="judge each turn by its reward and those after it, so discounted (1: not at all); None: by its episode's",
    )
    remove_constant_reward_groups: bool = chz.field(
        default=True, doc="leave out groups whose rewards are all equal, which teach nothing"
    )
    num_substeps: int = chz.field(default=1, validator=at_least(1), doc="optimizer steps per batch, each on its share")
    max_steps_off_policy: int = chz.field(
        default=0,
        validator=at_least(0),
        doc="K, steps that sampling may run ahead of training; 0 is synchronous",
    )
    stream_minibatches: int = chz.field(
        default=0,
        validator=at_least(0),
        doc="parts of a substep that are trained as soon as their groups finish; 0 waits for all of them",
    )
    on_high_kl: Literal["warn", "resample"] = chz.field(
        default="warn",
        doc="where KL(sampler||learner) passes high_kl: warn, or drop the rest of the batch and sample anew",
    )
    high_kl: float = chz.field(default=0.1, validator=positive, doc="that bound, in nats per token")
    kl_penalty_coef: float = chz.field(
        default=0.0, validator=_share, doc="weight of the penalty for leaving the reference"
    )
    kl_reference: str | None = chz.field(default=None, doc="tinker:// weights of the reference; None: the base model")

    temperature: float = chz.field(default=1.0, validator=positive, doc="of sampling")
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest action, in tokens")
    max_turns: int | None = chz.field(default=None, validator=at_least(1), doc="actions of an episode")
    max_trajectory_tokens: int | None = chz.field(
        default=None, validator=at_least(1), doc="tokens of an episode, what is read included; None: the context"
    )
    max_tool_calls: int | None = chz.field(default=None, validator=at_least(0), doc="tool calls of an episode")
    max_seconds: float | None = chz.field(default=None, validator=positive, doc="wall-clock time of an episode")
    on_env_error: Literal["fail", "retry", "drop"] = chz.field(
        default="fail",
        doc="where an environment fails: end the run, play its group again, or go on without the episode",
    )
    env_retries: int = chz.field(default=3, validator=at_least(0), doc="how often a group is played again")
    min_group_size: int = chz.field(
        default=2, validator=at_least(1), doc="episodes that a group needs to be trained after on_env_error=drop"
    )
    groups_shown: int = chz.field(default=4, validator=at_least(0), doc="groups that each transcript shows")

    @chz.validate
    def _loss(self) -> None:
        resolve_config(self.loss_fn, self.loss_fn_config)
        if self.kl_reference is not None and not self.kl_penalty_coef:
            raise invalid(
                "kl_reference", self.kl_reference, "None, or kl_penalty_coef above 0, without which it does nothing"
            )

    def limits(self) -> RolloutLimits:
        """Return how long an episode may go on."""
        return RolloutLimits(
            max_tokens=self.max_tokens,
            max_turns=self.max_turns,
            max_trajectory_tokens=self.max_trajectory_tokens,
            max_tool_calls=self.max_tool_calls,
            max_seconds=self.max_seconds,
        )

    def errors(self) -> ErrorPolicy:
        """Return what is done where an environment fails."""
        return ErrorPolicy(self.on_env_error, self.env_retries, self.min_group_size)
