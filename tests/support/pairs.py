"""Preference pairs with random content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.checkpoints import SHAPE
from tinsmith.engine.jobs import TrainRow
from tinsmith.types.datum import Datum


def make_datum(prompt: Sequence[int], completion: Sequence[int], **inputs: Any) -> Datum:
    """A datum that trains on the completion alone."""
    tokens = [*prompt, *completion]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    fields = {"target_tokens": tokens[1:], "weights": np.asarray(weights, np.float32)}
    return Datum(model_input=tokens[:-1], loss_fn_inputs={**fields, **inputs})


def make_pair(
    rng: np.random.Generator, prompt: int, chosen: int, rejected: int, vocab: int = SHAPE.vocab_size
) -> list[Datum]:
    """A pair of datums; arguments are numbers of tokens."""
    start = rng.integers(0, vocab, prompt).tolist()
    return [make_datum(start, rng.integers(0, vocab, length).tolist()) for length in (chosen, rejected)]


def pair_rows(
    model_id: str,
    data: Sequence[Datum],
    loss_fn: str = "dpo",
    *,
    backward: bool = True,
    reference: str | None = None,
    **config: float,
) -> list[TrainRow]:
    """Rows of datums in turn, chosen and rejected."""
    return [TrainRow(model_id, datum, loss_fn, config, backward, reference) for datum in data]
