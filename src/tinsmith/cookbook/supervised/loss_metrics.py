"""The loss of a batch as numbers that can be compared: per token, and per byte whatever the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tinsmith.cookbook.supervised.common import compute_mean_nll
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
    learned = sum(float(weight.to_numpy().sum(dtype="float64")) for weight in weights)
    if not learned:
        return {}
    nll = compute_mean_nll([output["logprobs"] for output in outputs], weights)
    found = {f"{name}/nll": nll}
    if trained_bytes:
        found[f"{name}/bits_per_byte"] = nll * learned / (math.log(2) * trained_bytes)
    return found
