"""Batches for the client's tests."""

from __future__ import annotations

import numpy as np

from tinsmith.types import Datum


def datum(length: int = 5, seed: int = 0) -> Datum:
    """A datum of random tokens, targets and weights."""
    rng = np.random.default_rng(seed)
    return Datum(
        tokens=rng.integers(0, 200, length).tolist(),
        targets=rng.integers(0, 200, length).tolist(),
        weights=rng.random(length).round(3).tolist(),
    )


def batch(count: int, length: int = 5) -> list[Datum]:
    return [datum(length + i % 3, seed=i) for i in range(count)]
