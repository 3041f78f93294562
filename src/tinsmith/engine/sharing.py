"""How one pass is shared among owners: whose turn it is, who may take part, with how much, and who pays what.

Merging is what makes a pass cheap, and waiting for others is what makes it slow. Two rules hold both at bay. Owners
whose accounts are level share a pass as they come. One that is ahead may fill what is left, as long as the pass takes
at most half as long again as those who are due would need without it: so nobody who is due waits longer than that for
company, and where a pass costs the same however full it is, as on a GPU, everybody takes part.

A pass is not broken off, so whoever comes while one is going on waits for its end. Where several owners use an engine
its passes are therefore cut to a slice of time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# By how much company may lengthen a pass. Beside a flood a tenant's work is to take at most twice its calm time and a
# pass; the other half is left to what a busy service adds outside of the engine.
_COMPANY = 0.5
# Of a pass that is cut for the others' sake what it costs in any case is at most a fifth: cutting further would waste
# more than it shares.
_FIXED_TIMES = 4.0


class PassKind(StrEnum):
    """What a pass computes; each has its own cost."""

    TRAIN = "train"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a pass takes: `fixed_s` and `each_s` for each of its units (tokens, or rows that are decoded)."""

    fixed_s: float = 0.0
    each_s: float = 0.0

    def of(self, units: float) -> float:
        """Return the seconds of a pass of so many units."""
        return self.fixed_s + self.each_s * units

    def within(self, seconds: float) -> float:
        """Return the most units of a pass that is to take so long, or a few times what it costs in any case."""
        return max(seconds - self.fixed_s, _FIXED_TIMES * self.fixed_s) / self.each_s if self.each_s else math.inf

    def beside(self, units: float) -> float:
        """Return the most units that a pass may have to take at most half as long again as with `units`."""
        return units + _COMPANY * self.of(units) / self.each_s if self.each_s else math.inf


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be known of the accounts for one pass.

    Attributes:
        leader: whose turn it is; None where all are equal, as in an engine without a scheduler.
        leads: how much more than the neediest each owner has had, seconds per weight; 0 for one that is not named.
        weights: of the owners; 1 for one that is not named.
        costs: what passes have taken so far.
        slice_s: how long a pass may take, seconds, unless one unit alone takes longer.
    """

    leader: str | None = None
    leads: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[PassKind, Cost] = field(default_factory=dict)
    slice_s: float = math.inf

    def lead(self, owner: str) -> float:
        """Return how far an owner is ahead."""
        return self.leads.get(owner, 0.0)

    def weight(self, owner: str) -> float:
        """Return an owner's weight."""
        return self.weights.get(owner, 1.0)

    def in_order(self, owners: Iterable[str]) -> list[str]:
        """Return owners as they come: the one whose turn it is, then the neediest first."""
        return sorted(owners, key=lambda owner: (owner != self.leader, self.lead(owner)))


EVEN = Turn()


class PassShare:
    """Who has how much of one pass.

    Args:
        turn: the accounts as they stand before it.
        kind: of the pass.
        most: units that a full pass has.

    Attributes:
        units: by owner, what each has in it.
        taken: what all of them have.
    """

    def __init__(self, turn: Turn, kind: PassKind, most: int) -> None:
        self.turn = turn
        self.kind = kind
        self.units: Counter[str] = Counter()
        self.taken = 0
        self._cost = turn.costs.get(kind, Cost())
        self._most = max(1, math.floor(min(most, self._cost.within(turn.slice_s))))
        # Of those who are due, the owner whose turn it is and all that are level with it.
        self._due = 0
        self._level = self._cost.fixed_s

    @property
    def is_full(self) -> bool:
        """Whether nobody has room any more."""
        return self.taken >= self._most

    def standing(self, owner: str) -> float:
        """Return how far an owner will be ahead once what it has in the pass is charged."""
        return self.turn.lead(owner) + self._cost.each_s * self.units[owner] / self.turn.weight(owner)

    def _is_due(self, owner: str) -> bool:
        return not self.units or self.standing(owner) <= self._level

    def room(self, owner: str) -> int:
        """Return how many more units an owner may have; the first one may exceed it where a unit cannot be cut."""
        left = self._most - self.taken
        if self._is_due(owner):
            return left
        # However cheap company is: by more than a full pass nobody may be ahead, or it would have to wait that long
        # for its next turn once the others have more to do.
        if self.turn.lead(owner) > self._cost.of(self._most):
            return 0
        return math.floor(min(self._most, self._cost.beside(self._due))) - self.taken

    def take(self, owner: str, units: int) -> None:
        """Note what an owner has got."""
        due = self._is_due(owner)
        self.units[owner] += units
        self.taken += units
        if due:
            self._due += units
            self._level = max(self._level, self.standing(owner) + self._cost.fixed_s)

    def parts(self) -> dict[str, float]:
        """Return which part of the pass's time each owner pays, 1 in all.

        Whose turn it is pays what the pass costs however full it is, and everybody its own units: so company costs an
        owner what it adds, and a long series of turns with company leaves nobody further ahead than without.
        """
        cost = self._cost if self._cost.of(self.taken) else Cost(each_s=1.0)
        bears = self.turn.leader if self.turn.leader in self.units else next(iter(self.units), None)
        seconds = {o: cost.each_s * n + (cost.fixed_s if o == bears else 0.0) for o, n in self.units.items()}
        total = sum(seconds.values())
        return {owner: part / total for owner, part in seconds.items()}
