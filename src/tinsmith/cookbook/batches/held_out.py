"""Rows to train on, and rows to evaluate with."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.types.errors import invalid


def split_held_out(
    rows: Sequence[Row] | RowStream, held_out: int | float, seed: int = 0
) -> tuple[Sequence[Row] | RowStream, Sequence[Row]]:
    """Split rows into those to train on and those to evaluate with.

    Args:
        rows: of `load_rows`, or any sequence of rows.
        held_out: how many rows to keep back; below 1.0, which share of them. Of a stream, the first ones.
        seed: of the choice.

    Returns:
        The rows to train on, and the rows kept back, in the order of `rows`.

    Raises:
        UserError: no row is left to train on, or a share of a stream is asked for.
    """
    if not held_out >= 0 or (isinstance(held_out, float) and held_out >= 1):
        raise invalid("held_out", held_out, "a number of rows, or a share of them below 1.0")
    if isinstance(rows, RowStream):
        # A share of something without a length is no number.
        if isinstance(held_out, float):
            raise invalid("held_out", held_out, "a number of rows: the rows are a stream, which has no length")
        return rows.split(held_out)
    # The type decides, not the size: 1 is one row, 0.5 half of them.
    count = round(held_out * len(rows)) if isinstance(held_out, float) else held_out
    if count >= len(rows):
        raise invalid("held_out", held_out, f"fewer than the {len(rows)} rows")
    return as_rows(rows).split(count, seed)
