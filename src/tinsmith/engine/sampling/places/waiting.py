"""Sequences that wait for a place, by owner and by the weights that they are sampled from."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterable

from tinsmith.engine.sampling.sequence import Sequence, age


class Waiting:
    """Sequences that hold no blocks. Among one owner's weights those go first that hold the fewest places."""

    def __init__(self) -> None:
        # By owner and by version of their weights, the oldest first; no list and no owner is empty.
        self._queues: dict[str, dict[int, list[Sequence]]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for jobs in self._queues.values() for queue in jobs.values())

    def owners(self) -> Collection[str]:
        """Return whose sequences wait, those that have waited on first."""
        return self._queues.keys()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence by its age."""
        jobs = self._queues.setdefault(sequence.owner, {})
        insort(jobs.setdefault(sequence.group.version, []), sequence, key=age)

    def discard(self, sequence: Sequence) -> None:
        """Take a sequence out, if it is there."""
        owner, version = sequence.owner, sequence.group.version
        jobs = self._queues.get(owner, {})
        queue = jobs.get(version, [])
        if sequence in queue:
            queue.remove(sequence)
            if not queue:
                del jobs[version]
            if not jobs:
                del self._queues[owner]

    def next_of(self, owner: str, holding: Iterable[Sequence]) -> Sequence | None:
        """Return the sequence of an owner that is let in next.

        Args:
            owner: whose.
            holding: sequences that have a place, anybody's.
        """
        first = [queue[0] for queue in self._queues.get(owner, {}).values()]
        if len(first) < 2:
            return first[0] if first else None
        # By weights, and not by request: nobody must gain by cutting a job into many.
        held = Counter(s.group.version for s in holding if s.owner == owner)
        return min(first, key=lambda s: (held[s.group.version], s.key))

    def places_wanted(self, owner: str) -> int:
        """Return how many places an owner could take: for those that wait, and for samples that have not begun."""
        return sum(len(queue) + queue[0].group.to_begin for queue in self._queues.get(owner, {}).values())
