"""Random numbers that follow from a name: of an epoch, of a source, of a split."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np


def seeded(*parts: Any) -> np.random.RandomState:
    """Return a generator whose numbers follow from `parts` alone, whatever the version of numpy (NEP 19)."""
    # RandomState and not default_rng: NumPy promises that its stream stays as it is. The hash keeps (0, 1) and (1, 0)
    # apart.
    digest = sha256(repr(parts).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))
