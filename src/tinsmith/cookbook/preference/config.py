"""The settings of learning from comparisons."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.training import TrainingConfig
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid

# Settings that may change when a run is taken up again, beside those of every run.
FREE = ("epochs",)


def held_out_rows(config: Any, field: str) -> None:
    """Check as a chz validator that some rows are held out."""
    value = getattr(config, field)
    if value is not None and (not value > 0 or (isinstance(value, float) and value >= 1)):
        raise invalid(field.removeprefix("X_"), value, "a number of rows, or a share of them below 1.0")


@chz.chz
class ComparisonConfig(TrainingConfig):
    """What training on comparisons takes: which ones, and how often they are gone through."""

    data: str | None = chz.field(
        default=None,
        doc="hhh, helpsteer3, ultrafeedback; a JSONL, Parquet or CSV file of such rows or of prompt, chosen, rejected; "
        "owner/name of the hub; None: sorted_letters, which ships",
    )
    test: str | None = chz.field(
        default=None, doc="file of held-out comparisons; None: those of a named set, else held_out of the rows"
    )
    held_out: int | float | None = chz.field(
        default=None,
        validator=held_out_rows,
        doc="rows, or the share of them below 1.0, held out of training; None: 200, or a tenth of fewer than 2,000",
    )
    skip_bad_rows: bool = chz.field(
        default=False, doc="leave out rows of a file that are no comparisons; they are counted"
    )
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the comparisons are gone through")
    max_length: int | None = chz.field(
        default=None,
        validator=at_least(2),
        doc="tokens of prompt and answer; behind it both answers of a pair are cut; None: what the model reads",
    )
    batch_size: int | None = chz.field(
        default=None,
        validator=at_least(1),
        doc="comparisons per step; None: 64, or fewer where 10 batches are not filled",
    )

    @property
    def usual_batch_size(self) -> int:
        """Comparisons per step where there are enough."""
        return 64
