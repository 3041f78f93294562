"""Whose turn it is: start-time fair queueing (Goyal, Vin & Cheng 1997, IEEE/ACM ToN 5(5), section II).

Every key has a tag, the sum of what it has been charged. The key with the smallest tag goes next. A key that comes
back from idling starts where the one that is being served started, so that idling saves up nothing (as the counters
of Sheng et al. 2024, "Fairness in Serving Large Language Models", OSDI, are lifted); what it had ahead it keeps. While
two keys both have work and the neediest is always served, what they have been charged differs by at most the largest
charges of each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare(Generic[K]):
    """Picks among keys by how much they have had; the unit (tokens, seconds) is the caller's."""

    def __init__(self) -> None:
        self._tags: dict[K, float] = {}
        self._active: set[K] = set()
        self._now = 0.0
        self._served = math.inf

    def activate(self, active: Iterable[K]) -> None:
        """Say which keys have work now; the others are forgotten once they have nothing ahead any more."""
        fresh = set(active)
        stayed = [self._tags[key] for key in self._active & fresh]
        # With nobody left who could have been kept waiting, all begin level.
        self._now = min([self._served, *stayed]) if stayed else max(self._tags.values(), default=self._now)
        self._served = math.inf
        # Whoever was away starts at `now`, so that it gets its share from here on and not what it missed.
        for key in fresh:
            self._tags[key] = max(self._tags.get(key, 0.0), self._now)
        # A tag at or below `now` is what a newcomer would get, so it need not be kept: the dict does not grow for ever.
        self._tags = {key: tag for key, tag in self._tags.items() if key in fresh or tag > self._now}
        self._active = fresh

    def least(self, active: Iterable[K]) -> K:
        """Return the key that has had least of some that were activated; the first of equals."""
        return min(active, key=self._tags.__getitem__)

    def serve(self, key: K) -> None:
        """Begin to serve a key: whoever comes before the next `activate` starts where it starts."""
        self._served = self._tags[key]

    def lead(self, key: K) -> float:
        """Return how much more `key` has had than whoever had least when keys were last activated; 0 where unknown."""
        return self._tags.get(key, self._now) - self._now

    def leads(self) -> dict[K, float]:
        """Return how much more each active key has had than the neediest of them."""
        least = min((self._tags[key] for key in self._active), default=0.0)
        return {key: self._tags[key] - least for key in self._active}

    def pick(self, active: Collection[K]) -> K | None:
        """Say which keys have work now and return the one whose turn it is, None where none has."""
        self.activate(active)
        if not active:
            return None
        key = self.least(active)
        self.serve(key)
        return key

    def charge(self, key: K, cost: float) -> None:
        """Count what `key` has just been given."""
        self._tags[key] = self._tags.get(key, self._now) + cost


class OwnedShare(Generic[K]):
    """Each owner's share among its keys (models, samplers, kinds of turns); owners are told apart by their accounts."""

    def __init__(self) -> None:
        self._shares: dict[str, FairShare[K]] = {}
        self._owner_of: Mapping[K, str] = {}

    def activate(self, owner_of: Mapping[K, str]) -> None:
        """Say which keys have work now, and whose each is."""
        self._owner_of = owner_of
        owned: dict[str, list[K]] = {}
        for key, owner in owner_of.items():
            owned.setdefault(owner, []).append(key)
        # An owner without work is forgotten: its keys begin level when it comes back.
        self._shares = {owner: self._shares.get(owner) or FairShare() for owner in owned}
        for owner, keys in owned.items():
            self._shares[owner].activate(keys)

    def least(self, active: Iterable[K]) -> K:
        """Return, of some keys of one owner that were activated, the one that has had least."""
        active = list(active)
        return self._shares[self._owner_of[active[0]]].least(active)

    def lead(self, key: K) -> float:
        """Return how much more `key` has had than the neediest of its owner's."""
        return self._shares[self._owner_of[key]].lead(key)

    def charge(self, key: K, cost: float) -> None:
        """Count what `key` has just been given."""
        self._shares[self._owner_of[key]].charge(key, cost)
