"""Checks of what a loss over pairs reads: chosen and rejected in turn, one prompt, two completions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinsmith.types.datum import Datum
from tinsmith.types.errors import invalid


def check_even(data: Sequence[Datum], loss_fn: str) -> None:
    """Check that datums can be paired.

    Raises:
        UserError: their number is odd.
    """
    if len(data) % 2:
        raise invalid("data", f"{len(data)} datums", f"pairs for loss_fn {loss_fn!r}: chosen and rejected in turn")


def check_pairs(data: Sequence[Datum]) -> None:
    """Check pairs whose datums have been checked one by one.

    Raises:
        UserError: a completion is empty, or the two of a pair have different prompts or do not differ at all.
    """
    for index in range(0, len(data), 2):
        _check_pair(index, data[index], data[index + 1])


def _check_pair(index: int, chosen: Datum, rejected: Datum) -> None:
    prompts = [_prompt(index + i, datum) for i, datum in enumerate((chosen, rejected))]
    name, other = f"data[{index + 1}]", f"data[{index}]"
    if prompts[0] != prompts[1]:
        expected = f"the prompt of {other}, the chosen one of its pair: the tokens ahead of the first weight"
        raise invalid(name, _difference(*prompts), expected)
    if all(np.array_equal(a, b) for a, b in zip(_content(chosen), _content(rejected), strict=True)):
        raise invalid(name, f"the completion of {other} once more", "a rejected completion that differs from it")


def _prompt(index: int, datum: Datum) -> list[int]:
    """Return the tokens ahead of the completion, whose targets are the ones with weights."""
    weights = datum.loss_fn_inputs["weights"].to_numpy()
    name = f"data[{index}].loss_fn_inputs['weights']"
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise invalid(f"{name}[{at}]", float(weights[at]), "a number that is not negative")
    trained = np.flatnonzero(weights)
    if not trained.size:
        raise invalid(name, "zeros only", "a weight at the tokens of the completion, which must not be empty")
    return datum.model_input.to_ints()[: int(trained[0]) + 1]


def _difference(chosen: list[int], rejected: list[int]) -> str:
    """Describe how the prompt of a rejected datum differs."""
    if len(chosen) != len(rejected):
        return f"a prompt of {len(rejected)} tokens beside one of {len(chosen)}"
    at = next(i for i, (a, b) in enumerate(zip(chosen, rejected, strict=True)) if a != b)
    return f"a prompt with token {rejected[at]} in place of {chosen[at]} at {at}"


def _content(datum: Datum) -> tuple[list[int], np.ndarray, np.ndarray]:
    inputs = datum.loss_fn_inputs
    return datum.model_input.to_ints(), inputs["target_tokens"].to_numpy(), inputs["weights"].to_numpy()
