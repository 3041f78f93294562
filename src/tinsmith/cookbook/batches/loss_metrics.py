"""The loss of a batch as numbers that can be compared: per token, and per byte whatever the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinsmith.types.datum import Datum
from tinsmith.types.tensor import TensorData


def loss_metrics(
    name: str, outputs: Sequence[Mapping[str, TensorData]], datums: Sequence[Datum], trained_bytes: int
) -> dict[str, float]:
    """Return `NAME/nll` and `NAME/bits_per_byte` of datums.

    The first is -Σ w·lp / Σ w in nats per token, the second -Σ w·lp / (ln 2 · bytes), with w the weights and lp the
    logprobs of the target tokens.

    Args:
        name: what the numbers are of.
        outputs: of `forward` or `forward_backward`, one per datum.
        datums: what was given to it.
        trained_bytes: UTF-8 bytes of the text that the tokens with a weight spell.

    Returns:
        Both numbers; without the first where every weight is 0, without the second where no byte is learned.
    """
    weights = [datum.loss_fn_inputs["weights"] for datum in datums]
    # float64: a batch may have a million weights, and a float32 sum of so many loses digits.
    learned = sum(float(weight.to_numpy().sum(dtype="float64")) for weight in weights)
    if not learned:
        return {}
    nll = compute_mean_nll([output["logprobs"] for output in outputs], weights)
    found = {f"{name}/nll": nll}
    if trained_bytes:
        # Σ w·lp again, from the mean: nats to bits by ln 2, and bytes in the place of tokens.
        found[f"{name}/bits_per_byte"] = nll * learned / (math.log(2) * trained_bytes)
    return found


def compute_mean_nll(logprobs: Iterable[TensorData | Any], weights: Iterable[TensorData | Any]) -> float:
    """Return the weighted mean negative log-likelihood per token, -Σ w·lp / Σ w, in nats.

    Args:
        logprobs: per datum, the logprob of each target token.
        weights: per datum, the weight of each target token, same shapes.

    Returns:
        The mean over all tokens of all datums; NaN when every weight is 0.
    """
    loss = weight = 0.0
    for datum_logprobs, datum_weights in zip(logprobs, weights, strict=True):
        values, factors = _array(datum_logprobs), _array(datum_weights)
        # Where the weight is 0 the logprob may be -inf, and 0 · inf is NaN.
        learned = factors != 0
        loss -= float(values[learned] @ factors[learned])
        weight += float(factors.sum())
    return loss / weight if weight else float("nan")


def _array(values: TensorData | Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = values.to_numpy() if isinstance(values, TensorData) else np.asarray(values)
    return array.astype(np.float64).ravel()
