"""What the benchmarks share: workloads drawn from a seed, measurements, tables and the JSON they are written to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        name: what was measured.
        value: the number.
        unit: e.g. `tokens/s`, `ms`, `s`.
        higher_is_better: the sense of the number.
    """

    name: str
    value: float
    unit: str
    higher_is_better: bool = True


@dataclass
class Column:
    """The measurements of one system under test."""

    system: str
    rows: list[Measurement] = field(default_factory=list[Measurement])

    def add(self, name: str, value: float, unit: str, *, higher_is_better: bool = True) -> None:
        """Append one measurement."""
        self.rows.append(Measurement(name, value, unit, higher_is_better))

    def get(self, name: str) -> Measurement | None:
        """Return the measurement of that name."""
        return next((row for row in self.rows if row.name == name), None)


class Stopwatch:
    """Elapsed wall-clock seconds; still running inside `stopwatch()`, fixed after it."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the start to the end, or to now."""
        return (self._end if self._end is not None else time.perf_counter()) - self._start

    def stop(self) -> None:
        """Fix the time."""
        self._end = time.perf_counter()


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time the body of the `with`."""
    watch = Stopwatch()
    try:
        yield watch
    finally:
        watch.stop()


def equal_lengths(count: int, length: int) -> list[int]:
    """Return `count` times the same length."""
    return [length] * count


def lognormal_lengths(count: int, mean: float, longest: int, seed: int = 0, *, sigma: float = 1.0) -> list[int]:
    """Draw lengths whose logarithm is normal: a few long ones among many short, as chats are.

    Args:
        count: how many.
        mean: of the distribution before it is cut, tokens.
        longest: cut at this, tokens.
        seed: of the draw.
        sigma: deviation of the logarithm.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return [int(n) for n in np.clip(np.round(drawn), 4, longest)]


def random_tokens(rng: np.random.Generator, length: int, vocab_size: int) -> list[int]:
    """Return uniform token ids."""
    return [int(t) for t in rng.integers(0, vocab_size, length)]


def conditions(**extra: Any) -> dict[str, Any]:
    """Return what a reader must know to judge a number: when, what commit, what machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "load_before": load,
        **extra,
    }


def show(title: str, columns: Sequence[Column], *, baseline: str | None, facts: dict[str, Any]) -> None:
    """Print measurements side by side, with each system's ratio to the baseline (above 1 is better), if there is one.

    What only one system has stands alone.
    """
    table = Table(title=title)
    table.add_column("measurement")
    table.add_column("unit")
    reference = next((column for column in columns if column.system == baseline), None)
    others = [column for column in columns if column is not reference] if reference else []
    for column in columns:
        table.add_column(column.system, justify="right")
    for column in others:
        table.add_column("ratio" if len(others) == 1 else f"ratio, {column.system}", justify="right")
    in_order = [reference, *others] if reference else columns
    units = {row.name: row.unit for column in in_order for row in column.rows}
    for name, unit in units.items():
        found = [column.get(name) for column in columns]
        cells = [name, unit, *(f"{m.value:,.4g}" if m else "-" for m in found)]
        known = reference.get(name) if reference else None
        cells += [f"{ratio(column.get(name), known):.3g}" if known else "-" for column in others]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print("  ".join(f"{key}: {value}" for key, value in facts.items()), style="dim")


def ratio(value: Measurement | None, reference: Measurement) -> float:
    """Return how much better a measurement is than the reference's (above 1 is better), NaN without one."""
    if value is None or not value.value or not reference.value:
        return float("nan")
    return value.value / reference.value if reference.higher_is_better else reference.value / value.value


def write_json(path: Path, columns: Sequence[Column], facts: dict[str, Any]) -> None:
    """Write measurements and conditions."""
    body = {"conditions": facts, "systems": {c.system: [asdict(row) for row in c.rows] for c in columns}}
    path.write_text(json.dumps(body, indent=1) + "\n")
