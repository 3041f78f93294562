"""Tokens and weights to a datum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import SupervisedExample
from tinsmith.types.datum import Datum
from tinsmith.types.errors import invalid
from tinsmith.types.model_input import ModelInput


def datum_from_tokens_weights(tokens: Sequence[int], weights: Sequence[float], max_length: int | None = None) -> Datum:
    """Make the datum in which every token predicts the next one; warns once of examples that are cut or teach nothing.

    Args:
        tokens: T token ids, not shifted.
        weights: T weights; `weights[i]` says how much token i is learned.
        max_length: tokens kept of a longer example; None keeps all.

    Returns:
        A datum of T - 1 positions: `target_tokens` int64 and `weights` float32 of shape (T - 1,).

    Raises:
        UserError: lengths differ, or fewer than two tokens are left.
    """
    example, was_cut = cut(SupervisedExample(list(tokens), list(weights)), max_length)
    if was_cut:
        warn_once(
            f"truncated at {max_length}",
            f"max_length: an example of {len(tokens)} tokens was cut to {max_length}; "
            "raise max_length, or shorten the data, to learn from whole examples",
        )
    if len(example.tokens) < 2:
        raise invalid("tokens", example.tokens, "at least two tokens, one to read and one to predict")
    # Said, not refused: in a batch, one such example costs nothing.
    if not any(example.weights[1:]):
        warn_once(
            "all-zero weights",
            "weights: an example has weight 0 everywhere and teaches nothing; check train_on_what and max_length",
        )
    return shift(example)


def cut(example: SupervisedExample, max_length: int | None) -> tuple[SupervisedExample, bool]:
    """Return an example of at most `max_length` tokens, and whether it was longer.

    Raises:
        UserError: lengths differ, or `max_length` leaves no token to predict.
    """
    if len(example.tokens) != len(example.weights):
        raise invalid("weights", f"{len(example.weights)} values", f"{len(example.tokens)}, one per token")
    if max_length is None:
        return example, False
    if max_length < 2:
        raise invalid("max_length", max_length, "at least 2 tokens")
    if len(example.tokens) <= max_length:
        return example, False
    # The end goes, not the beginning: what is left is a prefix, which the model can see when it is sampled.
    return SupervisedExample(example.tokens[:max_length], example.weights[:max_length]), True


def shift(example: SupervisedExample) -> Datum:
    """Return the datum of an example of T > 1 tokens: each of its T - 1 positions predicts the token after it."""
    tokens, weights = example
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            # [T - 1]: position i holds token i + 1, and how much that one is learned.
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "weights": np.asarray(weights[1:], dtype=np.float32),
        },
    )
