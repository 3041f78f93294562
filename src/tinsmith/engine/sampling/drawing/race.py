"""The random numbers of a draw, and those of the draws that follow, made together.

A draw needs a few hundred numbers for each row, which some thirty operations make out of seed, sample and position. For
a step of a small model they take as long as a layer, mostly to begin. What the next steps of the same sequences need is
known as soon as the sequences are, so that the operations are paid once for many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.engine.model.tiles.products import fill_up
from tinsmith.engine.model.tiles.softmax import BUCKET
from tinsmith.engine.sampling.drawing.randomness import exponentials, stream_keys, substream
from tinsmith.engine.transfers import to_device

# Of float64 numbers that are made ahead, 4 MiB.
_MOST_NUMBERS = 2**19
_MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class Race:
    """Exponential variates of mean 1 for each of S rows.

    Attributes:
        buckets: for the draw of a bucket of the vocabulary, float64 [S, buckets].
        inside: for the draw of a token of it, float64 [S, 256]; independent of the others.
    """

    buckets: Tensor
    inside: Tensor

    @classmethod
    def of(cls, keys: Tensor, vocab_size: int) -> Race:
        """Return the race of each stream, keys int64 [S] (`randomness.stream_keys`)."""
        # Two substreams, because both races must be independent of each other.
        buckets = -(-vocab_size // BUCKET)
        return cls(exponentials(substream(keys, 1), buckets), exponentials(substream(keys, 2), BUCKET))

    def rows(self, start: int, end: int) -> Race:
        """Return the race of some rows."""
        return Race(self.buckets[start:end], self.inside[start:end])


class RacesAhead:
    """The races of the same S streams at one position after the other.

    Args:
        streams: base of each (`randomness.stream_base`).
        vocab_size: of the logits.
        device: of the logits.
        tile: rows are filled up to a multiple of it, see `products.fill_up`.
    """

    def __init__(self, streams: Sequence[int], vocab_size: int, device: torch.device, tile: int) -> None:
        self._bases = fill_up(to_device(streams, device), tile)
        self._vocab_size = vocab_size
        self._tile = tile
        width = self._bases.shape[0] * (-(-vocab_size // BUCKET) + BUCKET)
        self._most = max(1, min(_MOST_STEPS, _MOST_NUMBERS // width))
        self._positions: list[int] = []
        self._race: Race | None = None
        self._made = self._used = 0

    def at(self, positions: Sequence[int]) -> Race:
        """Return the races at these positions, one of each stream."""
        follows = [position + self._used for position in self._positions] == positions
        if self._race is None or not follows or self._used == self._made:
            # Sequences come and go: what is made for steps that never come is at most as much as was used.
            self._made = min(self._most, 2 * self._made) if follows and self._made else 1
            self._race = self._make(positions)
            self._positions, self._used = list(positions), 0
        rows = self._bases.shape[0]
        start = self._used * rows
        self._used += 1
        return self._race.rows(start, start + rows)

    def _make(self, positions: Sequence[int]) -> Race:
        first = fill_up(to_device(positions, self._bases.device), self._tile)
        # Step by step, all rows of a step together.
        ahead = (torch.arange(self._made, device=first.device)[:, None] + first).flatten()
        return Race.of(stream_keys(self._bases.repeat(self._made), ahead), self._vocab_size)
