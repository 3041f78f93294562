"""Whether there is room for a sequence, and who makes it. Decides only; nothing changes here.

Each owner is due its part of the places and of the blocks. Who has less takes what is free before those who have more,
and where nothing is free the youngest sequence of the owner that has most gives way. Where a running sequence needs a
block and none is free, the oldest of all never gives way, so that it gets on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinsmith.engine.sampling.cache.block_manager import BlockManager
from tinsmith.engine.sampling.places.holdings import Holdings
from tinsmith.engine.sampling.places.waiting import Waiting
from tinsmith.engine.sampling.sequence import Sequence, age


class Room:
    """Answers for the sequences as they are at the moment.

    Args:
        blocks: of the cache.
        holdings: what each owner has and is due.
        waiting: sequences without a place.
        prefilling: sequences that have one and are not computed yet.
        running: the others that have one.
    """

    def __init__(
        self,
        blocks: BlockManager,
        holdings: Holdings,
        waiting: Waiting,
        prefilling: list[Sequence],
        running: list[Sequence],
    ) -> None:
        self._blocks = blocks
        self._holdings = holdings
        self._waiting = waiting
        self._prefilling = prefilling
        self._running = running

    @property
    def free_places(self) -> int:
        """Places that nobody has."""
        return self._holdings.all_places - len(self._running) - len(self._prefilling)

    def places_for(self, owner: str) -> int:
        """Return how many of the free places an owner may take: not those that others are due and wait for."""
        free = self.free_places
        if not free:
            return 0
        lacking, wanted = self._holdings.lacking, self._waiting.places_wanted
        claimed = sum(min(wanted(other), lacking(other)) for other in self._waiting.owners() if other != owner)
        return min(free, max(lacking(owner), free - claimed))

    def who_leaves_a_place(self, owner: str) -> list[Sequence] | None:
        """Return who gives its place to a newcomer, nobody where one is free; None where there is none to be had."""
        if self.places_for(owner) >= 1:
            return []
        if not self._holdings.lacking(owner):
            return None
        rich = self._holdings.most_places()
        first = None if rich is None else next(self._youngest(rich), None)
        return None if first is None else [first]

    def who_leaves_blocks(
        self, owner: str, needed: int, known: list[bytes], leaving: list[Sequence]
    ) -> list[Sequence] | None:
        """Return who gives way so that a newcomer has its blocks; None where they are not to be had.

        Whoever has nothing in the cache gets its first sequence in even if others must give way, whoever has something
        up to what it is due. Blocks are taken from those that have more than they are due; nobody's last sequence
        gives way.

        Args:
            owner: of the newcomer.
            needed: blocks that it takes beside the known ones.
            known: digests of the blocks that it finds in the cache.
            leaving: who gives way already.
        """
        leaving = list(leaving)
        takes = needed + self._blocks.idle(known)

        def left() -> int:
            freed = self._blocks.freed_by((s.blocks for s in leaving), known)
            return self._blocks.available + freed - takes

        # One block is left for each running sequence, which would else be preempted soon.
        if left() >= len(self._running) - len(leaving):
            return leaving
        holdings = self._holdings
        if holdings.places[owner] and holdings.blocks[owner] + needed > holdings.due_blocks(owner):
            return None
        for sequence in self._spare(owner, leaving):
            if left() >= 0:
                return leaving
            leaving.append(sequence)
        return leaving if left() >= 0 and leaving else None

    def who_leaves_a_block(self) -> Sequence:
        """Return the sequence that gives way to one that runs: the youngest of whoever holds most."""
        holding = sorted(self._running + self._prefilling, key=age)
        holdings = self._holdings
        # The oldest of all is left alone, so that it gets on; and so is anybody's last one while others have two.
        candidates = holding[1:] or holding
        several = [s for s in candidates if holdings.places[s.owner] > 1]
        rich = max((s.owner for s in several or candidates), key=holdings.blocks_for_weight)
        return [s for s in candidates if s.owner == rich][-1]

    def _youngest(self, owner: str) -> Iterator[Sequence]:
        """Yield an owner's running sequences, the youngest first."""
        # Only those that run: a slice of one that prefills may be in the plan that is being made.
        yield from sorted((s for s in self._running if s.owner == owner), key=age, reverse=True)

    def _spare(self, owner: str, leaving: Iterable[Sequence]) -> Iterator[Sequence]:
        """Yield the sequences by which others have more blocks than they are due, the richest owner's first."""
        holdings, gone = self._holdings, set(leaving)
        rich = [o for o in holdings.places if o != owner and holdings.blocks[o] > holdings.due_blocks(o)]
        for other in sorted(rich, key=holdings.blocks_for_weight, reverse=True):
            places, blocks = holdings.places[other], holdings.blocks[other]
            for sequence in gone:
                if sequence.owner == other:
                    places, blocks = places - 1, blocks - len(sequence.blocks)
            for sequence in self._youngest(other):
                if places < 2 or blocks <= holdings.due_blocks(other):
                    break
                if sequence not in gone:
                    places, blocks = places - 1, blocks - len(sequence.blocks)
                    yield sequence
