"""Training rows with random content, for every loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.checkpoints import SHAPE
from tinsmith.engine.jobs import TrainRow
from tinsmith.types.datum import Datum

# Each with options that make clipping happen on random data.
LOSS_CASES: dict[str, dict[str, float | str]] = {
    "cross_entropy": {},
    "cross_entropy_2d": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_low_threshold": 0.7, "clip_high_threshold": 1.3},
    "dro": {"beta": 0.1},
    "gspo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "stable_reinforce": {"kl_coeff": 0.3, "clip_high_threshold": 1.2},
}


def make_row(
    model_id: str, case: str, length: int, rng: np.random.Generator, *, backward: bool = True, **inputs: Any
) -> TrainRow:
    """Make a row whose sampling logprobs lie near those of a random model, a third of its positions switched off.

    Args:
        model_id: of the row.
        case: key of `LOSS_CASES`.
        length: tokens.
        rng: of the content.
        backward: whether gradients are wanted.
        inputs: loss inputs that replace the random ones.
    """
    tokens = rng.integers(0, SHAPE.vocab_size, length)
    off = rng.random(length) < 1 / 3
    fields: dict[str, Any] = {"target_tokens": rng.integers(0, SHAPE.vocab_size, length)}
    if case == "cross_entropy":
        fields["weights"] = np.where(off, 0, rng.random(length)).astype(np.float32)
    elif case == "cross_entropy_2d":
        fields["target_tokens"] = rng.integers(0, SHAPE.vocab_size, (length, 3))
        fields["weights"] = np.where(off[:, None], 0, rng.random((length, 3))).astype(np.float32)
    else:
        fields["logprobs"] = (-np.log(SHAPE.vocab_size) + rng.normal(size=length)).astype(np.float32)
        fields["advantages"] = np.where(off, 0, rng.normal(size=length)).astype(np.float32)
    if case == "gspo":
        # Other positions than those that train; never none.
        fields["sequence_ratio_mask"] = (rng.random(length) < 2 / 3).astype(np.float32)
        fields["sequence_ratio_mask"][rng.integers(length)] = 1
    datum = Datum(tokens=tokens, targets=None)
    datum = Datum(datum.model_input, {**fields, **inputs})
    return TrainRow(model_id, datum, case.removesuffix("_2d"), LOSS_CASES[case], backward)
