"""Whose turn it is: start-time fair queueing (Goyal, Vin & Cheng 1997, IEEE/ACM ToN 5(5), section II).

Every key has a tag, the sum of what it has been charged. The key with the smallest tag goes next. A key that comes
back from idling starts no lower than the neediest of those that stayed, so that idling saves up nothing; what it had
ahead it keeps. While two keys both have work and the neediest is always served, what they have been charged differs
by at most the largest charges of each.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare(Generic[K]):
    """Picks among keys by how much they have had; the unit (tokens, seconds) is the caller's."""

    def __init__(self) -> None:
        self._tags: dict[K, float] = {}
        self._active: set[K] = set()
        self._now = 0.0

    def activate(self, active: Collection[K]) -> None:
        """Say which keys have work now; the others are forgotten once they have nothing ahead any more."""
        fresh = set(active)
        stayed = [self._tags[key] for key in self._active & fresh]
        # With nobody left who could have been kept waiting, all begin level.
        self._now = min(stayed) if stayed else max(self._tags.values(), default=self._now)
        # Whoever was away starts at `now`, so that it gets its share from here on and not what it missed.
        for key in fresh:
            self._tags[key] = max(self._tags.get(key, 0.0), self._now)
        # A tag at or below `now` is what a newcomer would get, so it need not be kept: the dict does not grow for ever.
        self._tags = {key: tag for key, tag in self._tags.items() if key in fresh or tag > self._now}
        self._active = fresh

    def least(self, active: Iterable[K]) -> K:
        """Return the key that has had least of some that were activated; the first of equals."""
        return min(active, key=self._tags.__getitem__)

    def lead(self, key: K) -> float:
        """Return how much more `key` has had than the one that had least when keys were last activated."""
        return self._tags[key] - self._now

    def pick(self, active: Collection[K]) -> K | None:
        """Say which keys have work now and return the one whose turn it is, None where none has."""
        self.activate(active)
        return self.least(active) if active else None

    def charge(self, key: K, cost: float) -> None:
        """Count what `key` has just been given."""
        self._tags[key] += cost


class OwnedShare:
    """Shares among owners, and each owner's share among its keys: many models or samplers give nobody more."""

    def __init__(self) -> None:
        self._owners: FairShare[str] = FairShare()
        self._keys: dict[str, FairShare[str]] = {}
        self._owner_of: Mapping[str, str] = {}

    def activate(self, owner_of: Mapping[str, str]) -> None:
        """Say which keys have work now, and whose each is."""
        self._owner_of = owner_of
        owned: dict[str, list[str]] = {}
        for key, owner in owner_of.items():
            owned.setdefault(owner, []).append(key)
        self._owners.activate(owned)
        # Whoever has no work is forgotten below the owner: its keys begin level when it comes back.
        self._keys = {owner: self._keys.get(owner, FairShare()) for owner in owned}
        for owner, keys in owned.items():
            self._keys[owner].activate(keys)

    def least(self, active: Collection[str]) -> str:
        """Return, of some keys that were activated, the neediest of the neediest owner."""
        owner = self._owners.least(self._owner_of[key] for key in active)
        return self._keys[owner].least(key for key in active if self._owner_of[key] == owner)

    def lead(self, key: str) -> float:
        """Return how much more than the neediest the key's owner has had, or the key among its owner's, if more."""
        owner = self._owner_of[key]
        return max(self._owners.lead(owner), self._keys[owner].lead(key))

    def charge(self, key: str, cost: float) -> None:
        """Count what `key` has just been given."""
        owner = self._owner_of[key]
        self._owners.charge(owner, cost)
        self._keys[owner].charge(key, cost)
