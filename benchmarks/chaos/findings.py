"""What the clients of two runs came to, compared: losses, sampled tokens, weights and moments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tinsmith.types.names.paths import CheckpointPath


@dataclass(frozen=True)
class Outcome:
    """What one client ended with.

    Attributes:
        steps: optimizer steps.
        losses: of each forward_backward, in order.
        tokens: of each sampled sequence, in order.
        tensors: weights, moments and counters of the last state, by file and name.
    """

    steps: int
    losses: list[float]
    tokens: list[list[int]]
    tensors: dict[str, np.ndarray]

    @classmethod
    def read(cls, written: Path, data: Path) -> Outcome:
        """Read what a client wrote, and the state that it saved last from the service's data folder."""
        found: dict[str, Any] = json.loads(written.read_text())
        return cls(found["steps"], found["losses"], found["tokens"], _tensors(_folder(found["path"], data)))


def _folder(path: str, data: Path) -> Path:
    parsed = CheckpointPath.parse(path)
    places = data / "checkpoints" / parsed.run_id / parsed.kind
    return next(place for place in places.iterdir() if place.name.split("~")[0] == parsed.name)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.name}: {name}": value for file in files for name, value in load_file(file).items()}


@dataclass(frozen=True)
class Difference:
    """How far one client's run is from the calm one of the same length.

    Attributes:
        losses: largest relative difference; infinite where their number differs, which is a lost or doubled result.
        tokens: sampled sequences that differ.
        tensors: the largest difference of a tensor, relative to its largest entry.
    """

    losses: float
    tokens: int
    tensors: float

    @classmethod
    def of(cls, found: Outcome, calm: Outcome) -> Difference:
        """Compare."""
        return cls(_relative(found.losses, calm.losses), _unequal(found.tokens, calm.tokens), _worst(found, calm))

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost or doubled: what is left is the rounding of batches that were merged otherwise."""
        return self.losses <= 1e-5 and self.tokens == 0 and self.tensors <= 1e-6


def _relative(found: list[float], calm: list[float]) -> float:
    if len(found) != len(calm):
        return float("inf")
    # numpy's maximum hands NaN on, which Python's own may pass over.
    wanted = np.array(calm)
    return float((np.abs(np.array(found) - wanted) / np.abs(wanted)).max(initial=0.0))


def _unequal(found: list[list[int]], calm: list[list[int]]) -> int:
    return abs(len(found) - len(calm)) + sum(a != b for a, b in zip(found, calm, strict=False))


def _worst(found: Outcome, calm: Outcome) -> float:
    if found.tensors.keys() != calm.tensors.keys():
        return float("inf")
    worst = 0.0
    for name, value in calm.tensors.items():
        # In float64: a difference of float32 would round once more.
        wanted = value.astype(np.float64)
        gap = np.abs(found.tensors[name].astype(np.float64) - wanted).max(initial=0.0)
        worst = float(np.maximum(worst, gap / max(np.abs(wanted).max(initial=0.0), 1e-30)))
    return worst


def recoveries(kills: list[float], times: list[Path]) -> list[float]:
    """Return how long each kill kept clients waiting, seconds.

    From the kill until the first step that was asked for after it is done, by whichever client. Kills that the next one
    overtook are left out.
    """
    steps = sorted(
        (float(asked), float(done)) for file in times for asked, done in map(str.split, file.read_text().splitlines())
    )
    waits = []
    for kill, following in zip(kills, [*kills[1:], float("inf")], strict=True):
        done = min((end for asked, end in steps if asked >= kill), default=float("inf"))
        if done < following:
            waits.append(done - kill)
    return waits


def summary(waits: list[float]) -> tuple[float, float]:
    """Return median and worst, NaN where there are none."""
    return (median(waits), max(waits)) if waits else (float("nan"), float("nan"))
