"""How a simulation looks: what each owner got of the engine, and how long each kind of tenant waited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.common import Column
from benchmarks.simulation.ledger import Ledger

_MARKS = {"p50": "o", "p95": "s", "p99": "^", "largest": "x"}


def even_shares(ledger: Ledger) -> dict[str, list[float]]:
    """Return, by kind, what each owner had against an even share by weight, in the windows in which its work waited."""
    found: dict[str, dict[str, list[float]]] = {}
    for window in ledger.windows:
        mean = sum(window.values()) / len(window) if window else 0.0
        for owner, share in window.items() if mean else ():
            found.setdefault(ledger.accounts[owner].kind, {}).setdefault(owner, []).append(share / mean)
    return {kind: sorted(float(np.mean(each)) for each in owners.values()) for kind, owners in found.items()}


def save_picture(ledger: Ledger, kinds: Sequence[Column], path: Path, title: str) -> None:
    """Write both plots; the same simulation gives the same bytes. The suffix of `path` says which kind of picture."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_shares(left, even_shares(ledger))
    _draw_waits(right, kinds)
    figure.suptitle(title)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tinsmith"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_shares(axes: Axes, shares: dict[str, list[float]]) -> None:
    for kind, values in shares.items():
        places = np.linspace(0, 100, len(values)) if len(values) > 1 else [50.0]
        axes.plot(places, values, marker=".", label=kind)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        title="Owners whose work always waited",
        xlabel="owners of a kind, by what they had, %",
        ylabel="service / weight, against the mean",
    )
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.3)
    if shares:
        axes.legend()


def _draw_waits(axes: Axes, kinds: Sequence[Column]) -> None:
    for name, mark in _MARKS.items():
        found = [column.get(f"wait, {name}") for column in kinds]
        rows = [row for row, one in enumerate(found) if one is not None]
        axes.plot([one.value for one in found if one is not None], rows, mark, label=name)
    axes.set_yticks(range(len(kinds)), [column.system for column in kinds])
    axes.invert_yaxis()
    axes.set(title="From submission to the first token computed", xlabel="seconds", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
