"""The journal's benchmark: what it makes of its measurements, and (slow) that all sides run; no time is judged."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.journal_cost.figures import report
from benchmarks.journal_cost.sides import FULL, OFF, ON, POINTS, QUICK, SIDES, Side, measure


def side(name: str, *walls: float) -> Side:
    run: Any = None
    return Side(
        name,
        run,
        list(walls),
        [wall / 2 for wall in walls],
        [wall / 50 for wall in walls],
        [wall / 400 for wall in walls],
    )


def test_ratios_are_of_blocks_of_the_same_round() -> None:
    """The machine is twice as slow in the second round, and the journal costs 10 % in both."""
    off, on = side(OFF, 1.0, 2.0, 1.0), side(ON, 1.1, 2.2, 1.1)
    full, points = side(FULL, 1.5, 3.0, 1.5), side(POINTS, 1.7, 2.8, 1.7)
    table, written = report([off, on, full, points], interval_s=60.0)
    more = written["sides"][ON]["more_wall"]
    assert more == pytest.approx({"low": 10.0, "middle": 10.0, "high": 10.0})
    assert written["sides"][FULL]["more_cpu"]["middle"] == pytest.approx(50.0)
    assert written["sides"][ON]["wait_share"]["middle"] == pytest.approx(2.0)
    assert written["sides"][ON]["write_share"]["middle"] == pytest.approx(0.5)
    assert written["point_ms"]["wall"]["middle"] == pytest.approx(600.0)
    assert written["point_share_percent"]["wall"] == pytest.approx(1.0)  # 0.6 s of 60
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table)
    assert "10 (10 to 10)" in shown.get()
    assert "one in 60 s" in shown.get()


@pytest.mark.slow
def test_all_sides_run(tmp_path: Path) -> None:
    sides = measure(QUICK, tmp_path, random.Random(0))
    assert [one.name for one in sides] == list(SIDES)
    assert all(len(one.walls) == QUICK.rounds and min(one.walls) > 0 for one in sides)
    # The one without a journal has stored no operation.
    stored = [sqlite3.connect(tmp_path / str(at) / "tinsmith.db") for at in range(len(SIDES))]
    counts = [one.execute("SELECT count(*) FROM operations").fetchone()[0] for one in stored]
    assert counts[0] == 0
    assert min(counts[1:]) > 0
