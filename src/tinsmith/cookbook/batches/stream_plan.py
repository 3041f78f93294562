"""Which rows of a stream are in which batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.types.errors import invalid


class StreamPlan:
    """Batches of a stream, by number; going back, or starting in the middle, reads the stream again up to there.

    Args:
        stream: the rows.
        batch_size: rows per batch.
        drop_last: whether the rest of a pass that fills no batch is left out, or becomes a smaller one.
    """

    per_epoch: int | None = None
    left_out: int | None = None

    def __init__(self, stream: RowStream, batch_size: int, drop_last: bool) -> None:
        self.batch_size = batch_size
        self._stream = stream
        self._drop_last = drop_last
        self._batches = self._all()
        self._next = 0

    def get(self, step: int) -> tuple[int, list[tuple[str, Row]]]:
        """Return the pass over the stream of batch `step`, and the (place, row) pairs of the batch."""
        # A generator does not go back: it is begun anew and read up to the place.
        if step < self._next:
            self._batches, self._next = self._all(), 0
        found: Any = None
        while self._next <= step:
            found = next(self._batches)
            self._next += 1
        return found

    def _all(self) -> Iterator[tuple[int, list[tuple[str, Row]]]]:
        number = 0
        while True:
            rows = self._stream.epoch(number)
            given = 0
            while batch := list(islice(rows, self.batch_size)):
                if len(batch) < self.batch_size and self._drop_last:
                    break
                given += 1
                yield number, batch
            # Without this, a stream shorter than a batch would be read again for ever.
            if not given:
                expected = f"a stream of at least {self.batch_size if self._drop_last else 1} rows, one batch"
                raise invalid("data", self._stream.name, expected)
            number += 1
