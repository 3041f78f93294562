"""The settings that all trainers share: those of a run, and of the optimizer."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith import AdamParams
from tinsmith.cookbook.runs import RunConfig
from tinsmith.cookbook.schedules import Schedule
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid


def _decay(config: Any, field: str) -> None:
    value = getattr(config, field)
    # At 1 a moment would never forget, and its bias correction would divide by zero. NaN fails both comparisons.
    if not 0 <= value < 1:
        raise invalid(field.removeprefix("X_"), value, "0 or more and below 1")


@chz.chz
class TrainingConfig(RunConfig):
    """The settings of a trainer; each kind of training adds its own in a subclass.

    The second moment forgets faster than Adam's usual 0.999: its estimate then follows the gradients within 20 steps,
    and a fine-tuning has only some hundreds of them.
    """

    lr_schedule: Schedule = chz.field(default="linear", doc="constant, linear or cosine, from the peak rate to 0")
    warmup_steps: int = chz.field(default=0, validator=at_least(0), doc="steps that lead up to the peak rate")
    adam_beta1: float = chz.field(default=0.9, validator=_decay, doc="decay of the first moment")
    adam_beta2: float = chz.field(default=0.95, validator=_decay, doc="decay of the second moment")
    adam_eps: float = chz.field(default=1e-8, validator=at_least(0), doc="added to the root of the second moment")
    weight_decay: float = chz.field(default=0.0, validator=at_least(0), doc="decoupled, times the learning rate")
    grad_clip_norm: float = chz.field(default=0.0, validator=at_least(0), doc="largest gradient norm; 0: no clipping")

    def adam_params(self, learning_rate: float) -> AdamParams:
        """Return the parameters of one optimizer step at a rate."""
        return AdamParams(
            learning_rate=learning_rate,
            beta1=self.adam_beta1,
            beta2=self.adam_beta2,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
            grad_clip_norm=self.grad_clip_norm,
        )
