"""One account per owner: seconds of engine time over its weight, whatever they were spent on.

Training, sampling and all else are charged to the same account, so that an owner who trains and samples gets no more
than one who only trains. Below its account an owner's time is shared among the kinds of turns that it has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from typing import Generic, TypeVar

from tinsmith.engine.sharing import Turn
from tinsmith.scheduler.shares.fairness import FairShare

L = TypeVar("L", bound=Hashable)

# Even a turn of no measurable length counts, or whoever comes first among equals would have all of them.
_LEAST_CHARGE_S = 1e-7

# How long a pass may take where several owners use the host: long enough for a full one on a GPU, and short beside what
# a person or a training loop waits for anyway.
SLICE_S = 0.25
# For so long an owner is reckoned with after its last work: clients pause between steps, and a pass of full length that
# was begun meanwhile would be what they have to wait for.
_PRESENT_S = 60.0


class Accounts(Generic[L]):
    """The accounts of all owners of a host; `L` names the kinds of turns (lanes) that an owner may have."""

    def __init__(self) -> None:
        self._owners: FairShare[str] = FairShare()
        self._lanes: dict[str, FairShare[L]] = {}
        self._weights: dict[str, float] = {}
        self._last_work: dict[str, float] = {}

    def weigh(self, owner: str, weight: float) -> None:
        """Say how much of the time an owner gets beside others, from now on; 1 is what everybody has."""
        if weight == 1.0:
            self._weights.pop(owner, None)  # only what differs is kept
        else:
            self._weights[owner] = weight

    def pick(self, ready: Mapping[str, Collection[L]], now: float) -> tuple[str, L] | None:
        """Say who has work in which lanes; return whose turn it is and in which lane, None where nobody has work."""
        self._last_work |= dict.fromkeys(ready, now)
        if len(self._last_work) > 1:
            self._last_work = {owner: last for owner, last in self._last_work.items() if last > now - _PRESENT_S}
        owner = self._owners.pick(list(ready))
        if owner is None:
            self._lanes.clear()
            return None
        self._lanes = {name: self._lanes.get(name) or FairShare() for name in ready}
        lane = self._lanes[owner].pick(ready[owner])
        return None if lane is None else (owner, lane)

    def turn(self, owner: str) -> Turn:
        """Return the accounts as they stand at an owner's turn."""
        # Alone, a model's passes depend on nothing but its operations, so that a replay gives the same bits.
        slice_s = SLICE_S if len(self._last_work) > 1 else math.inf
        return Turn(owner, self._owners.leads(), self._weights, slice_s=slice_s)

    def charge(self, lane: L, seconds: float, parts: Mapping[str, float]) -> None:
        """Charge a turn.

        Args:
            lane: that it was taken in.
            seconds: that it took.
            parts: of that time which each owner pays, 1 in all.
        """
        for owner, part in parts.items():
            cost = max(seconds * part, _LEAST_CHARGE_S)
            self._owners.charge(owner, cost / self._weights.get(owner, 1.0))
            if owner in self._lanes:
                self._lanes[owner].charge(lane, cost)
