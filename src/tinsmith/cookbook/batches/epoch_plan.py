"""Which rows are in which batch: a function of seed and number alone, so that a resumed run sees the same ones."""

from __future__ import annotations

import functools

from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import Indices, Rows
from tinsmith.types.errors import UserError, invalid


class EpochPlan:
    """Batches of rows that can be counted.

    Each epoch goes through the rows once, in an order of its own; what an epoch of a mixture is, `Mixture` says.

    Args:
        rows: know their epoch and its order.
        batch_size: rows per batch; with fewer rows than that, a batch is all of them.
        seed: of the orders.
        drop_last: whether the rest of an epoch that fills no batch is left out, or becomes a smaller one.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, drop_last: bool) -> None:
        self._rows = rows
        self._seed = seed
        epoch_size = rows.epoch_size
        if not epoch_size:
            raise invalid("rows", "none", "at least one row")
        # Otherwise few rows would make no batch at all, and a run of no steps would look finished.
        self.batch_size = min(batch_size, epoch_size)
        full, rest = divmod(epoch_size, self.batch_size)
        self.per_epoch = full if drop_last or not rest else full + 1
        self.left_out = rest if drop_last else 0
        # Two orders: a trainer that renders ahead looks into the next epoch while it is in one.
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def get(self, step: int) -> tuple[int, list[tuple[str, Row]]]:
        """Return the epoch of batch `step`, and the (place, row) pairs of the batch.

        Raises:
            UserError: a row can no longer be read, as of a file that was moved since it was opened.
        """
        epoch, position = divmod(step, self.per_epoch)
        # A slice of one permutation, and no state between calls: batch 17 is the same whoever asks for it, and when.
        start = position * self.batch_size
        chosen = self._order(epoch)[start : start + self.batch_size].tolist()
        return epoch, [(self._rows.place(index), self._read(index)) for index in chosen]

    def _read(self, index: int) -> Row:
        try:
            return self._rows.read(index)
        except OSError as error:
            raise UserError(f"{self._rows.place(index)}: cannot be read any more ({error.strerror})") from error

    def _shuffled(self, epoch: int) -> Indices:
        return self._rows.order(self._seed, epoch)
