"""The rows of the table: which workload on which checkpoint, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu.shapes import Shape
from benchmarks.targets import busy, memory, sampling, service, training
from benchmarks.targets import sizes as sizes_
from benchmarks.targets.bench import EMBEDDED, LARGE, SMALL, TOY, WIDE, Bench
from benchmarks.targets.results import Result
from benchmarks.targets.sizes import Sizes

Measure = Callable[[Bench, Sizes, float], Result]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: that `--only` knows.
        shape: of the checkpoint.
        measure: measures it.
        float32: what is wanted of it in float32; None: it has no part in a float32 run.
        bfloat16: what is wanted in bfloat16; None: it has no part in a bfloat16 run.
    """

    name: str
    shape: Shape
    measure: Measure
    float32: float | None
    bfloat16: float | None = None

    def target(self, dtype: str) -> float | None:
        """Return what is wanted of it in a dtype."""
        return self.float32 if dtype == "float32" else self.bfloat16


# Those of one checkpoint side by side: its processes serve all of them. On the larger one no 32x512: the plain loop
# would need some 24 GB and a minute for each step.
ROWS = [
    Row("equal", SMALL, training.equal, 1.2, 2.0),
    Row("long", SMALL, training.long, 1.2, 2.0),
    Row("lognormal", SMALL, training.lognormal, 2.5, 2.5),
    Row("tenants", SMALL, training.tenants, 0.9, 0.9),
    Row("sampling", SMALL, sampling.sampling, 3.0, 3.0),
    Row("adapters", SMALL, sampling.adapters, 0.85, 0.85),
    Row("mixed", SMALL, sampling.mixed, 2.0, 2.0),
    Row("busy-training", SMALL, busy.training, 0.4),
    Row("busy-sampling", SMALL, busy.sampling, 0.4),
    Row("tiny-step", SMALL, service.tiny_step, 15.0),
    Row("visible", SMALL, service.visible, 10.0),
    Row("memory", WIDE, memory.memory, 0.35),
    Row("rl", EMBEDDED, service.rl, 1.45),
    Row("equal", LARGE, training.equal, 1.2, 2.0),
    Row("lognormal", LARGE, training.lognormal, 2.5, 2.5),
    Row("tenants", LARGE, training.tenants, 0.9, 0.9),
    Row("sampling", LARGE, sampling.sampling, 2.0, 3.0),
    Row("adapters", LARGE, sampling.adapters, 0.85, 0.85),
    Row("busy-sampling", LARGE, busy.sampling, 0.4),
]
NAMES = list(dict.fromkeys(row.name for row in ROWS))
MODELS = list(dict.fromkeys(row.shape.name for row in ROWS))


def sizes_of(row: Row) -> Sizes:
    """Return how much a row computes."""
    return sizes_.LARGE if row.shape is LARGE else sizes_.USUAL


def quick() -> list[Row]:
    """Return each row once, on a checkpoint that is hardly there."""
    firsts = {row.name: row for row in reversed(ROWS)}
    return [Row(name, TOY, firsts[name].measure, firsts[name].float32, firsts[name].bfloat16) for name in NAMES]
