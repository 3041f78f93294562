"""What the sides' times come to: medians with their quarters, ratios of blocks of the same round, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.journal_cost.sides import OFF, ON, POINTS, Side


@dataclass(frozen=True)
class Spread:
    """A median and the quarters beside it."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quarters of some values."""
    return Spread(*(float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])))


@dataclass(frozen=True)
class Costs:
    """What a side took per step, ms, how much more than the side without a journal, and the journal's shares, %.

    Waits are compared with the step, writes with its processor time.
    """

    wall: Spread
    cpu: Spread
    more_wall: Spread
    more_cpu: Spread
    wait_share: Spread
    write_share: Spread


def costs(side: Side, off: Side) -> Costs:
    """Return what a side took."""
    walls, cpus = [1000 * one for one in side.walls], [1000 * one for one in side.cpus]
    waits, writes = _share(side.waits, side.walls), _share(side.writes, side.cpus)
    return Costs(spread(walls), spread(cpus), _more(side.walls, off.walls), _more(side.cpus, off.cpus), waits, writes)


def _share(parts: Sequence[float], wholes: Sequence[float]) -> Spread:
    return spread([100 * part / whole for part, whole in zip(parts, wholes, strict=True)])


def _more(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    return spread([100 * (a / b - 1) for a, b in zip(ours, theirs, strict=True)])


def price_of_a_point(points: Side, on: Side) -> dict[str, Spread]:
    """Return what one recovery point takes, ms."""
    pairs = {"wall": (points.walls, on.walls), "cpu": (points.cpus, on.cpus)}
    return {name: spread([1000 * (a - b) for a, b in zip(*pair, strict=True)]) for name, pair in pairs.items()}


def report(sides: Sequence[Side], interval_s: float) -> tuple[Table, dict[str, Any]]:
    """Return the table to print and the JSON to write."""
    by_name = {side.name: side for side in sides}
    found = {side.name: costs(side, by_name[OFF]) for side in sides}
    point = price_of_a_point(by_name[POINTS], by_name[ON])
    table = Table(title="What is stored for a restart, and what it costs: median (quarters)")
    for heading in ("", "step, ms", "beyond 'off', %", "processor, ms", "beyond 'off', %", "waits, %", "writes, %"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, cost in found.items():
        more = ("-", "-") if name == OFF else (str(cost.more_wall), str(cost.more_cpu))
        table.add_row(
            name, str(cost.wall), more[0], str(cost.cpu), more[1], str(cost.wait_share), str(cost.write_share)
        )
    share = {name: price.middle / 10 / interval_s for name, price in point.items()}
    table.add_row("one recovery point", str(point["wall"]), "", str(point["cpu"]), "", "", "")
    table.add_row(f"one in {interval_s:g} s", "", f"{share['wall']:.2g}", "", f"{share['cpu']:.2g}", "", "")
    written = {name: asdict(cost) for name, cost in found.items()}
    prices = {name: asdict(price) for name, price in point.items()}
    return table, {"sides": written, "point_ms": prices, "point_share_percent": share}
