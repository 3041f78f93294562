"""Sequences of rows that are read where they lie, row by row, and know what an epoch of them is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from tinsmith.cookbook.rows.row_digest import digest_of_rows
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.seeds import seeded

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Rows(Sequence[Row], ABC):
    """Rows that are read when they are asked for; subclasses say how many there are, how one is read, where it lies."""

    @abstractmethod
    def read(self, index: int) -> Row:
        """Return row `index`, 0 <= index < len(self)."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Return where a row lies, for messages about it: `data.jsonl, line 12`."""

    def digest(self) -> str:
        """Return a hash of the rows; other rows, or the same in another order, have another one."""
        return digest_of_rows(self)

    def remarks(self) -> dict[str, object]:
        """Return what a run's header says of the rows, by name: what was converted, what is left out or not used."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what a run that learns from the rows is held to: `run.hold("data", rows.facts())`."""
        return {"rows": len(self), "sha256": self.digest()}

    @property
    def epoch_size(self) -> int:
        """Rows that an epoch goes through."""
        return len(self)

    def order(self, seed: int, epoch: int) -> Indices:
        """Return the indices of the rows of an epoch, each at most once, in the order in which they are taken."""
        return seeded(seed, epoch).permutation(len(self))

    def split(self, held_out: int, seed: int) -> tuple[Rows, Rows]:
        """Return the rows without `held_out` of them, chosen by the seed, and these, both in their order."""
        # Another stream of numbers than the epochs', and then sorted: the order of what is left does not depend on the
        # split.
        order = seeded(seed, "held out").permutation(len(self))
        return Subset(self, np.sort(order[held_out:])), Subset(self, np.sort(order[:held_out]))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.read(index % len(self))

    # A generator, so that going through a file holds one row at a time.
    def __iter__(self) -> Iterator[Row]:
        return (self.read(index) for index in range(len(self)))


class Listed(Rows):
    """Rows of a list, or of any other sequence."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Row:
        return self._rows[index]

    def place(self, index: int) -> str:
        return f"row {index}"


class Subset(Rows):
    """Some rows of others.

    Args:
        rows: the others.
        indices: which of them, in order.
    """

    def __init__(self, rows: Rows, indices: Indices) -> None:
        self._rows = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Row:
        return self._rows.read(int(self._indices[index]))

    def place(self, index: int) -> str:
        return self._rows.place(int(self._indices[index]))

    def remarks(self) -> dict[str, object]:
        return self._rows.remarks()


def as_rows(rows: Sequence[Row]) -> Rows:
    """Return a sequence of rows as `Rows`."""
    return rows if isinstance(rows, Rows) else Listed(rows)
