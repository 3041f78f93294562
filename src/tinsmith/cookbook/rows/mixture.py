"""Several sources of rows as one, each with a weight."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import Indices, Listed, Rows, as_rows
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.types.errors import invalid


class Mixture(Rows):
    """Rows of several sources, drawn in proportion to their weights.

    An epoch ends when one of the sources is used up: it has `weight / total · N` rows of each, N as large as the
    sources allow, in one shuffled order. The next epoch goes on in each source where the last one stopped, so that in
    time all rows of all sources are seen. As a sequence, a mixture is its sources one after another.

    Args:
        parts: (rows, weight) pairs; weights need not add up to 1.

    Attributes:
        parts: the sources and their weights.
        shares: rows of each source in an epoch.

    Raises:
        UserError: no sources, a weight that is no positive number, or one so small that no row of a source is taken.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[Row], float]]) -> None:
        if not parts:
            raise invalid("mixture", [], "at least one source")
        for index, (rows, weight) in enumerate(parts):
            if not (0 < weight < float("inf")):
                raise invalid(f"mixture[{index}].weight", weight, "a finite number above 0")
            if not len(rows):
                raise invalid(f"mixture[{index}].rows", "none", "at least one row")
        self.parts = [(as_rows(rows), weight) for rows, weight in parts]
        self._starts = [0, *accumulate(len(rows) for rows, _ in parts)]
        # The source that is used up first: the fewest rows for its weight.
        unit = min(len(rows) / weight for rows, weight in parts)
        self.shares = [min(len(rows), round(unit * weight)) for rows, weight in parts]
        for index, share in enumerate(self.shares):
            if not share:
                weight = parts[index][1]
                raise invalid(f"mixture[{index}].weight", weight, "one that takes at least one row before others end")

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Row:
        rows, own = self._find(index)
        return rows.read(own)

    def place(self, index: int) -> str:
        rows, own = self._find(index)
        return rows.place(own)

    def digest(self) -> str:
        return hashlib.sha256(" ".join(rows.digest() for rows, _ in self.parts).encode()).hexdigest()

    def remarks(self) -> dict[str, object]:
        found: dict[str, list[str]] = {}
        for rows, _ in self.parts:
            for name, told in rows.remarks().items():
                found.setdefault(name, []).append(str(told))
        return {name: "; ".join(told) for name, told in found.items()}

    @property
    def epoch_size(self) -> int:
        return sum(self.shares)

    def order(self, seed: int, epoch: int) -> Indices:
        chosen: list[Indices] = []
        for number, ((rows, _), share) in enumerate(zip(self.parts, self.shares, strict=True)):
            # One permutation per source for the whole run; epochs take one stretch of it after the other, around its
            # end.
            own = seeded("mixture", seed, number).permutation(len(rows))
            places = (epoch * share + np.arange(share)) % len(rows)
            chosen.append(own[places] + self._starts[number])
        return seeded("mixture", seed, "epoch", epoch).permutation(np.concatenate(chosen))

    def split(self, held_out: int, seed: int) -> tuple[Rows, Rows]:
        """As `Rows.split`, in each source: in proportion to the weights, so that both sides are of the same kind."""
        # Rounded at the ends of cumulative shares, so that the parts add up to exactly `held_out`.
        ends = np.round(
            np.cumsum([0, *(weight for _, weight in self.parts)]) / sum(w for _, w in self.parts) * held_out
        )
        rest: list[tuple[Rows, float]] = []
        kept: list[Rows] = []
        for (rows, weight), count in zip(self.parts, np.diff(ends).astype(int).tolist(), strict=True):
            if count >= len(rows):
                raise invalid("held_out", held_out, f"fewer: {count} would be of a source of {len(rows)} rows")
            remaining, own = rows.split(count, seed)
            rest.append((remaining, weight))
            kept.extend([own] if count else [])
        return Mixture(rest), Listed([row for rows in kept for row in rows])

    def _find(self, index: int) -> tuple[Rows, int]:
        part = bisect_right(self._starts, index) - 1
        return self.parts[part][0], index - self._starts[part]
