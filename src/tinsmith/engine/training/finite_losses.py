"""Rows whose loss is NaN or infinite: they fail by name, because their gradients would end the run in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tinsmith.engine.jobs import NotFinite, RowOutput
from tinsmith.engine.training.packing import Unit


def fail_infinite(
    units: Sequence[Unit], outputs: Mapping[int, RowOutput], results: list[RowOutput | Exception]
) -> list[str]:
    """Put an error in the place of every row of a unit whose loss is not finite.

    Args:
        units: that were computed.
        outputs: of their rows, by index.
        results: of the call, by index; changed in place.

    Returns:
        the models of those rows.
    """
    models: dict[str, None] = {}
    for unit in units:
        loss = next((found for row in unit if not math.isfinite(found := outputs[row.index].loss)), None)
        if loss is None:
            continue
        models[unit[0].row.model_id] = None
        finite = all(bool(np.isfinite(outputs[row.index].logprobs).all()) for row in unit)
        why = "loss inputs or ratios of logprobs that are too large" if finite else "weights that have diverged"
        for row in unit:
            told = f"{row.row.loss_fn}: got a loss of {loss}, expected a finite number; it comes of {why}"
            results[row.index] = NotFinite(f"{told}, and its gradients were dropped")
    return list(models)
