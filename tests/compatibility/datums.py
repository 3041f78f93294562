"""Datums of the official SDK with random content: the same for ever, because what they give is on record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tinker

from tests.compatibility.serving import VOCABULARY


def supervised(lengths: Sequence[int], seed: int = 0, *, two_d: bool = False) -> list[tinker.Datum]:
    """Return cross-entropy datums; a third of the positions have weight 0."""
    rng = np.random.default_rng(seed)
    data = []
    for n in lengths:
        shape = (n, 3) if two_d else (n,)
        weights = np.where(rng.random(shape) < 1 / 3, 0, rng.random(shape)).astype(np.float32)
        inputs = {"target_tokens": rng.integers(0, VOCABULARY, shape), "weights": weights}
        data.append(tinker.Datum(model_input=_tokens(rng, n), loss_fn_inputs=inputs))
    return data


def policy(lengths: Sequence[int], seed: int = 0) -> list[tinker.Datum]:
    """Return policy-gradient datums, sampled by a model that was almost uniform."""
    rng = np.random.default_rng(seed)
    data = []
    for n in lengths:
        tokens = _tokens(rng, n)
        inputs = {
            "target_tokens": rng.integers(0, VOCABULARY, n),
            "logprobs": (-np.log(VOCABULARY) + 0.3 * rng.normal(size=n)).astype(np.float32),
            "advantages": np.where(rng.random(n) < 1 / 3, 0, rng.normal(size=n)).astype(np.float32),
        }
        data.append(tinker.Datum(model_input=tokens, loss_fn_inputs=inputs))
    return data


def _tokens(rng: np.random.Generator, length: int) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints([int(token) for token in rng.integers(0, VOCABULARY, length)])
