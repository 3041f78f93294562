"""Curves of a run for a page without scripts: the points of a line in a small frame, and what to write beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Of a frame, in pixels.
WIDTH, HEIGHT = 280, 90
# More would be a wall of frames; a line has no more points than a frame has pixels.
_MOST = 8
# What a run is about, first; of the rest, what was measured on held-out data says most.
_FIRST = ("env/reward", "env/correct", "train/nll", "train/loss", "train/accuracy", "train/teacher_kl")
_THEN = ("test/", "eval/", "forgetting/")


class Curve(NamedTuple):
    """A metric over the steps of a run.

    Attributes:
        name: of the metric.
        points: of an SVG polyline in a frame of `WIDTH` by `HEIGHT`.
        first, last, low, high: values, as they are written.
        until: the last step.
    """

    name: str
    points: str
    first: str
    last: str
    low: str
    high: str
    until: int


def curves_of(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the curves that are worth a look, of the rows of `metrics.jsonl`."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen = [name for name in _FIRST if name in names]
    chosen += [name for name in names if name.startswith(_THEN) and name not in chosen]
    found = [_curve(name, rows) for name in chosen[:_MOST]]
    return [curve for curve in found if curve is not None]


def _curve(name: str, rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    seen = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    seen = [(step, float(value)) for step, value in seen if math.isfinite(value)]
    if not seen:
        return None
    values = [value for _, value in seen]
    low, high = min(values), max(values)
    until = max(1, seen[-1][0])
    # Every so many, so that the line has at most a point a pixel; the last one always.
    every = max(1, len(seen) // WIDTH)
    drawn = [*seen[:-1][::every], seen[-1]]
    # A line that is level stands in the middle.
    span = high - low
    points = [
        f"{step / until * WIDTH:.1f},{HEIGHT / 2 if span == 0 else (high - value) / span * HEIGHT:.1f}"
        for step, value in drawn
    ]
    told = [f"{value:.4g}" for value in (values[0], values[-1], low, high)]
    return Curve(name, " ".join(points), *told, until)
