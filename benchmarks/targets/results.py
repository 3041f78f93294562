"""One row of the table of targets, and the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One row.

    Attributes:
        name: that `--only` knows.
        what: is measured, and beside what.
        model: checkpoint and dtype.
        unit: of `ours` and `beside`.
        ours: what Tinsmith needs or achieves; None where it was not measured.
        beside: the other side's, or None where there is none.
        value: what is held against the target, usually a ratio.
        target: None for what is only told.
        at_most: whether the target is an upper bound.
        why: it was not measured.
    """

    name: str
    what: str
    model: str
    unit: str
    ours: float | None = None
    beside: float | None = None
    value: float | None = None
    target: float | None = None
    at_most: bool = False
    why: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none or nothing was measured."""
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def cells(self) -> list[str]:
        """Return the row of the table."""
        sign = "≤" if self.at_most else "≥"
        target = "" if self.target is None else f"{sign} {self.target:g}"
        start = [self.what, self.model]
        if self.value is None:
            return [*start, "", "", "", f"not measured: {self.why}", target, "-"]
        holds = {True: "yes", False: "no", None: ""}[self.holds]
        return [*start, _figure(self.ours), _figure(self.beside), self.unit, f"{self.value:.3g}", target, holds]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def show(results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Print the table and under what conditions it was measured."""
    table = Table(title="Speed targets, medians; the sides of a row take turns")
    for heading in ("what", "model"):
        table.add_column(heading)
    for heading in ("Tinsmith", "beside", "unit", "value", "target", "holds"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(*result.cells())
    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("  ".join(f"{key}: {value}" for key, value in facts.items()), style="dim")


def markdown(results: Sequence[Result]) -> str:
    """Return the table as a page of the documentation has it."""
    head = (
        "| what | model | Tinsmith | beside | unit | value | target | holds |\n|---|---|---:|---:|---|---:|---:|---|\n"
    )
    return head + "".join(f"| {' | '.join(result.cells())} |\n" for result in results)


def write_json(path: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Write what has been measured so far."""
    rows = [{**asdict(result), "holds": result.holds} for result in results]
    path.write_text(json.dumps({"conditions": facts, "rows": rows}, indent=1) + "\n")
