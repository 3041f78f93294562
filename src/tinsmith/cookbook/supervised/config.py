"""The settings of training on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chz

from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.rows.sources import load_rows
from tinsmith.cookbook.training import TrainingConfig
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid

# Settings that may change when a run is taken up again, beside those of every run: more epochs, more steps.
FREE = ("epochs",)


def share_or_count(config: Any, field: str) -> None:
    """Check as a chz validator a number of rows, or a share of them; None leaves the choice to the size of the data."""
    value = getattr(config, field)
    if value is not None and (not value >= 0 or (isinstance(value, float) and value >= 1)):
        raise invalid(field.removeprefix("X_"), value, "a number of rows, or a share of them below 1.0")


@chz.chz
class RowTrainingConfig(TrainingConfig):
    """What training on rows takes, wherever they come from: how often and how they are learned, what is held out."""

    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="rows per step; None: 128, or fewer where 10 batches are not filled"
    )
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the data are gone through")
    train_on_what: TrainOnWhat = chz.field(default=TrainOnWhat.ALL_ASSISTANT_MESSAGES, doc="which messages are learned")
    max_length: int | None = chz.field(
        default=None, validator=at_least(2), doc="longer examples are cut to so many tokens; None: whole"
    )
    held_out: int | float | None = chz.field(
        default=0, validator=share_or_count, doc="rows, or the share of them below 1.0, that test/nll is measured on"
    )
    samples: int = chz.field(
        default=4, validator=at_least(0), doc="held-out questions whose sampled answers each transcript shows"
    )
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest of these answers, in tokens")
    skip_bad_rows: bool = chz.field(default=False, doc="leave out rows of a file that cannot be used; they are counted")

    @property
    def usual_batch_size(self) -> int:
        """Rows per step where there are enough."""
        return 128

    @property
    def usual_held_out(self) -> int:
        """Rows that are held out where there are enough, if `held_out` is None."""
        return 200


@chz.chz
class SupervisedConfig(RowTrainingConfig):
    """What a supervised run takes: data, and how they are learned."""

    data: str | None = chz.field(
        default=None,
        doc="JSONL, Parquet or CSV file, hub data set, or a mixture a.jsonl:0.7,b.jsonl:0.3; None: pig latin",
    )
    text_control_tokens: bool = chz.field(
        default=False, doc="read control tokens that are spelled in `text` rows (<|user|>, </s>) as tokens, not as text"
    )
    text_eos: bool = chz.field(default=False, doc="end each `text` row with the tokenizer's end token")

    def load_rows(self, renderer: Renderer) -> Sequence[Row] | RowStream:
        """Return the rows that `data` names.

        Args:
            renderer: of the model that learns them.

        Raises:
            UserError: there are no such data, or they are not well formed; names file and lines.
        """
        return load_rows(
            self.data,
            self.seed,
            renderer,
            self.train_on_what,
            skip_bad_rows=self.skip_bad_rows,
            text_control_tokens=self.text_control_tokens,
            text_eos=self.text_eos,
        )
