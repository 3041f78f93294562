"""What passes cost, learned from what they took: seconds as a line over their units."""

from __future__ import annotations

from tinsmith.engine.sharing import Cost, PassKind

# What a measurement still counts for after the next one: some thirty passes are remembered.
_KEPT = 0.97


class CostModel:
    """A straight line through (units, seconds), by least squares in which old passes fade."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, units: float, seconds: float) -> None:
        """Take in one pass."""
        self._n = self._n * _KEPT + 1.0
        self._x = self._x * _KEPT + units
        self._y = self._y * _KEPT + seconds
        self._xx = self._xx * _KEPT + units * units
        self._xy = self._xy * _KEPT + units * seconds

    @property
    def cost(self) -> Cost:
        """The line, which falls nowhere and is nowhere below zero; through zero while all passes had the same size."""
        if not self._x:
            return Cost()
        spread = self._n * self._xx - self._x * self._x
        if spread <= 1e-3 * self._n * self._xx:
            return Cost(0.0, self._y / self._x)
        each = (self._n * self._xy - self._x * self._y) / spread
        if each <= 0.0:
            return Cost(self._y / self._n, 0.0)
        fixed = (self._y - each * self._x) / self._n
        # A line that begins below zero would promise small passes for nothing.
        return Cost(fixed, each) if fixed >= 0.0 else Cost(0.0, self._xy / self._xx)


class Costs:
    """The costs of all kinds of passes of one engine."""

    def __init__(self) -> None:
        self._models = {kind: CostModel() for kind in PassKind}

    def learn(self, kind: PassKind, units: float, seconds: float) -> None:
        """Take in one pass."""
        self._models[kind].learn(units, seconds)

    def all(self) -> dict[PassKind, Cost]:
        """Return what each kind costs now."""
        return {kind: model.cost for kind, model in self._models.items()}
