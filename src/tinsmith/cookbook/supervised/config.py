"""The settings of training on rows."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.renderers import TrainOnWhat
from tinsmith.cookbook.training import TrainingConfig
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid

# Settings that may change when a run is taken up again, beside those of every run: more epochs, more steps.
FREE = ("epochs",)


def _held_out(config: Any, field: str) -> None:
    value = getattr(config, field)
    if not value >= 0 or (isinstance(value, float) and value >= 1):
        raise invalid(field.removeprefix("X_"), value, "a number of rows, or a share of them below 1.0")


@chz.chz
class RowTrainingConfig(TrainingConfig):
    """What training on rows takes, wherever they come from: how often and how they are learned, what is held out."""

    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the data are gone through")
    train_on_what: TrainOnWhat = chz.field(default=TrainOnWhat.ALL_ASSISTANT_MESSAGES, doc="which messages are learned")
    max_length: int | None = chz.field(
        default=None, validator=at_least(2), doc="longer examples are cut to so many tokens; None: whole"
    )
    held_out: int | float = chz.field(
        default=0, validator=_held_out, doc="rows, or the share of them below 1.0, that test/nll is measured on"
    )
    samples: int = chz.field(
        default=4, validator=at_least(0), doc="held-out questions whose sampled answers each transcript shows"
    )
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest of these answers, in tokens")


@chz.chz
class SupervisedConfig(RowTrainingConfig):
    """What a supervised run takes: data, and how they are learned."""

    data: str | None = chz.field(
        default=None,
        doc="JSONL, Parquet or CSV file, hub data set, or a mixture a.jsonl:0.7,b.jsonl:0.3; None: pig latin",
    )
