"""Who holds which part of the cache: places of the batch and blocks, and what part of both each owner is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.sharing import EVEN, Turn


class Holdings:
    """Counts by owner; an owner is due its weight's part of the whole among the owners that are present.

    Args:
        places: sequences that may hold blocks at once.
        blocks: of the cache.
    """

    def __init__(self, places: int, blocks: int) -> None:
        self.all_places = places
        self._all_blocks = blocks
        self.places: Counter[str] = Counter()
        self.blocks: Counter[str] = Counter()
        self._parts: dict[str, float] = {}
        self._turn = EVEN
        # What `most_places` found, in a list of its own, until something changes.
        self._most: list[str | None] = []

    def begin(self, turn: Turn, waiting: Collection[str]) -> None:
        """Say who is waiting beside those that hold places, and what the owners weigh, until said anew."""
        self._turn = turn
        self._most.clear()
        present = {*waiting, *self.places}
        total = sum(map(turn.weight, present))
        self._parts = {owner: turn.weight(owner) / total for owner in present}

    # -- what is due --------------------------------------------------------------------------------------------------

    def due_places(self, owner: str) -> int:
        """Return how many places an owner is due, at least one."""
        return max(1, int(self.all_places * self._parts.get(owner, 1.0)))

    def lacking(self, owner: str) -> int:
        """Return how many places an owner has less than it is due."""
        return max(0, self.due_places(owner) - self.places[owner])

    def due_blocks(self, owner: str) -> float:
        """Return how many blocks an owner is due."""
        return self._all_blocks * self._parts.get(owner, 1.0)

    def most_places(self) -> str | None:
        """Return, of the owners with more places than they are due, the one that has most for its weight."""
        # Every owner that finds no place asks this; only those that come and go change the answer.
        if not self._most:
            over = [owner for owner, places in self.places.items() if places > self.due_places(owner)]
            self._most.append(max(over, key=self._places_for_weight, default=None))
        return self._most[0]

    def _places_for_weight(self, owner: str) -> tuple[float, float]:
        # Among equals whoever has had more of the time.
        return self.places[owner] / self._turn.weight(owner), self._turn.lead(owner)

    def blocks_for_weight(self, owner: str) -> float:
        """Return how many blocks an owner has for its weight."""
        return self.blocks[owner] / self._turn.weight(owner)

    # -- what has happened --------------------------------------------------------------------------------------------

    def enter(self, sequence: Sequence) -> None:
        """A sequence has taken a place, with the blocks that it holds."""
        self._most.clear()
        self.places[sequence.owner] += 1
        self.blocks[sequence.owner] += len(sequence.blocks)

    def grow(self, sequence: Sequence) -> None:
        """A sequence has got one more block."""
        self.blocks[sequence.owner] += 1

    def leave(self, sequence: Sequence) -> None:
        """A sequence is about to give back its place and its blocks."""
        self._most.clear()
        owner = sequence.owner
        self.places[owner] -= 1
        self.blocks[owner] -= len(sequence.blocks)
        # A Counter keeps zeros; owners come and go.
        if not self.places[owner]:
            del self.places[owner], self.blocks[owner]
