"""Whose turn it is: start-time fair queueing (Goyal, Vin & Cheng 1997, IEEE/ACM ToN 5(5), section II).

Every key has a tag, the sum of what it has been charged. The key with the smallest tag goes next, and a key that was
idle starts at the tag of whoever was served last, so that idling saves up nothing. While two keys both have work,
what they are charged differs by at most the largest charges of each.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare(Generic[K]):
    """Picks among keys by how much they have had; the unit (tokens, seconds) is the caller's."""

    def __init__(self) -> None:
        self._tags: dict[K, float] = {}
        self._now = 0.0

    def activate(self, active: Collection[K]) -> None:
        """Say which keys have work now; the others are forgotten once idling has used up what they had ahead."""
        known = set(active)
        self._tags = {key: tag for key, tag in self._tags.items() if key in known or tag > self._now}
        for key in known:
            self._tags[key] = max(self._tags.get(key, 0.0), self._now)

    def least(self, active: Iterable[K]) -> K:
        """Return the key that has had least of some that were activated; the first of equals."""
        return min(active, key=self._tags.__getitem__)

    def pick(self, active: Collection[K]) -> K | None:
        """Return the key whose turn it is, None where none has work."""
        self.activate(active)
        return self.least(active) if active else None

    def charge(self, key: K, cost: float) -> None:
        """Count what `key` has just been given."""
        start = self._tags.get(key, self._now)
        self._now = max(self._now, start)
        self._tags[key] = start + cost
