"""The prompts and parameters of `TrainingClient.sample`, in all the forms it takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from tinsmith.types.errors import UserError, invalid
from tinsmith.types.model_input import ModelInput
from tinsmith.types.params import SamplingParams

Prompt = str | ModelInput | Sequence[int]
Prompts = Prompt | Sequence[Prompt]
Params = SamplingParams | Mapping[str, Any]

# Two names for one thing: the course's slides say `n`, the protocol says `num_samples`.
_COUNT_KEYS = ("n", "num_samples")


def parse_prompts(prompts: Prompts) -> list[str | list[int]]:
    """Return the prompts as texts and token lists.

    Args:
        prompts: one prompt, or a sequence of them; a prompt is a string, a `ModelInput`, or a sequence of token ids.

    Raises:
        UserError: there is none, or something else is among them.
    """
    if isinstance(prompts, str | ModelInput):
        return [_prompt(prompts, "prompts")]
    items = _items(prompts, "prompts")
    if not items:
        raise invalid("prompts", prompts, "at least one prompt")
    # A flat list of numbers is one prompt of tokens; everything else is a list of prompts.
    if all(isinstance(item, int) for item in items):
        return [_prompt(cast("Sequence[int]", items), "prompts")]
    return [_prompt(item, f"prompts[{index}]") for index, item in enumerate(items)]


def _prompt(prompt: Any, field: str) -> str | list[int]:
    if isinstance(prompt, str):
        if not prompt:
            raise invalid(field, prompt, "a text that is not empty")
        return prompt
    tokens = prompt.to_ints() if isinstance(prompt, ModelInput) else _items(prompt, field)
    if not tokens:
        raise invalid(field, prompt, "at least one token")
    for token in tokens:
        # A bool is an int to Python, and a mask passed by mistake would be a prompt of the first two tokens.
        if isinstance(token, bool) or not isinstance(token, int):
            raise invalid(field, prompt, "a string, a ModelInput or token ids")
    return tokens


def _items(value: Any, field: str) -> list[Any]:
    """Return the elements of a list, tuple, array or tensor."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping | bytes) or not isinstance(value, Sequence):
        raise invalid(field, cast("object", value), "a string, a ModelInput, token ids, or a list of these")
    return list(cast("Sequence[Any]", value))


def parse_params(params: Params | None, num_samples: int | None) -> tuple[SamplingParams, int]:
    """Return sampling parameters and the number of samples of each prompt.

    Args:
        params: `SamplingParams`, or a dict of its fields and `n` (or `num_samples`); None takes the defaults.
        num_samples: None takes the dict's `n`, else 1.

    Raises:
        UserError: a name is unknown (the nearest one is named), a value has the wrong type, or the count is given
            twice or is not positive.
    """
    if params is None or isinstance(params, SamplingParams):
        return params or SamplingParams(), _count(num_samples)
    if not isinstance(params, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise invalid("params", params, "SamplingParams or a dict")
    fields = dict(params)
    counts = [fields.pop(key) for key in _COUNT_KEYS if key in fields]
    if num_samples is not None:
        counts.append(num_samples)
    if len(counts) > 1:
        raise invalid("params.n", counts, "one of n and num_samples, once")
    check_known(fields, SamplingParams.model_fields, "params", further=_COUNT_KEYS)
    try:
        return SamplingParams(**fields), _count(counts[0] if counts else None)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(f"params.{first['loc'][0]}", first["input"], first["msg"]) from error


def _count(value: Any) -> int:
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid("params.n", value, "a whole number of at least 1")
    return value


def check_known(given: Mapping[str, Any], known: Mapping[str, Any], what: str, further: Sequence[str] = ()) -> None:
    """Check the names of a dict.

    Raises:
        UserError: one is unknown; the nearest known one is named.
    """
    names = [*known, *further]
    for key in given:
        if key not in names:
            # Cutoff 0: some name is always the nearest, and a guess that misses does no harm beside the whole list.
            nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)
            raise UserError(f"{what}.{key}: unknown, did you mean {nearest[0]!r}? Known: {', '.join(names)}")
