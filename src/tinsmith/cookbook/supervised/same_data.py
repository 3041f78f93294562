"""That a run is taken up again with the data it was begun with; others would make it silently another run."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.runs import Run


def hold_to_data(run: Run, rows: Sequence[Row] | RowStream) -> None:
    """Note the number and the hash of a run's rows, or compare them with those noted; a stream is not looked at.

    Args:
        run: the run.
        rows: all its rows, held-out ones included.

    Raises:
        UserError: the run carries on from a state, and its rows were others.
    """
    if not isinstance(rows, RowStream):
        found = as_rows(rows)
        run.hold_to_data(len(found), found.digest())
