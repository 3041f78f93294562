"""The one place that turns whatever a loader raises into a sentence with file and field.

Loading runs foreign code over foreign files: `transformers`, its validators, torch. What that raises is of any type
and says what broke, seldom which line of which file is to blame. So the blame is found by trying: the field without
which the same error does not come is the one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.model_files.folder import CONFIG, GENERATION
from tinsmith.types.errors import UserError, invalid

log = logging.getLogger(__name__)

# These say what is to be built; without them there is nothing to try.
_STRUCTURE = ("model_type", "architectures", "auto_map", "transformers_version")
# As many fields as a message names; with more to blame, none is.
_MOST_BLAMED = 4
_FEW = 2
_FIELD = re.compile(r"Validation error for field '([^']+)'")
_EXPECTED = re.compile(r"expected (?:an? )?(.+?), got")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "dict": "an object",
    "NoneType": "null",
    "list": "a list",
}

Attempt = Callable[[dict[str, Any]], object]


@contextlib.contextmanager
def named_faults(place: str, folder: Path) -> Iterator[None]:
    """Turn whatever is raised inside into a `UserError` that names file and field.

    Args:
        place: what messages call the model, e.g. `base model NAME`.
        folder: that is being loaded.
    """
    with _quiet():
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            # For whoever maintains this: the frames are of no use to the one whose file is broken.
            log.debug("%s could not be loaded from %s", place, folder, exc_info=True)
            raise _explained(place, folder, error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from printing tables about the weights; what is wrong with them is raised instead."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _explained(place: str, folder: Path, error: Exception) -> UserError:
    if is_out_of_memory(error):
        return UserError(f"{place}: got {folder}, which does not fit into memory ({_first_line(error)})")
    stages: tuple[tuple[str, Attempt], ...] = (
        (CONFIG, _make_config),
        (GENERATION, _make_generation),
        # All fields are tried one by one, which would take minutes with the layers of a large model.
        (CONFIG, lambda fields: _run(_with_few_layers(fields))),
        (CONFIG, _run),
    )
    for file, attempt in stages:
        fields = _fields(folder / file)
        fault = None if fields is None else _fault(attempt, fields)
        if fields is not None and fault is not None:
            return _blamed(f"{place}: {folder / file}", fields, attempt, fault)
    return UserError(f"{place}: {folder}: got files that cannot be loaded as a model ({_words(error)})")


def _fields(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _make_config(fields: dict[str, Any]) -> PreTrainedConfig:
    # A copy, because the configs of `transformers` take fields out of what they are given.
    return CONFIG_MAPPING[fields["model_type"]].from_dict(json.loads(json.dumps(fields)))


def _make_generation(fields: dict[str, Any]) -> object:
    return GenerationConfig.from_dict(dict(fields))


def _run(fields: dict[str, Any]) -> object:
    """Build the model that a config describes, without memory for weights, and run it."""
    # Two tokens: the shapes of the parts have to fit together, too.
    with torch.device("meta"), torch.no_grad():
        model: Any = AutoModelForCausalLM.from_config(_make_config(fields), attn_implementation="eager").eval()
        try:
            return model(input_ids=torch.zeros(1, 2, dtype=torch.int64), use_cache=False)
        except RuntimeError as error:
            # A router asks for numbers, which are not there; that is no fault of the config.
            if "meta" in str(error):
                return None
            raise


def _with_few_layers(fields: dict[str, Any]) -> dict[str, Any]:
    layers = fields.get("num_hidden_layers")
    if not isinstance(layers, int) or layers <= _FEW:
        return fields
    per_layer = {k: v[:_FEW] for k, v in fields.items() if isinstance(v, list) and len(v) == layers}
    return {**fields, **per_layer, "num_hidden_layers": _FEW}


def _fault(attempt: Attempt, fields: dict[str, Any]) -> Exception | None:
    try:
        attempt(fields)
    except Exception as error:
        return error
    return None


def _blamed(where: str, fields: dict[str, Any], attempt: Attempt, error: Exception) -> UserError:
    found = _FIELD.search(str(error)) if isinstance(error, StrictDataclassFieldValidationError) else None
    if found is not None and found[1] in fields:
        kinds = dict.fromkeys(_EXPECTED.findall(str(error)))
        wanted = " or ".join(_WORDS.get(str(kind), str(kind)) for kind in kinds)
        return invalid(f"{where}: {found[1]}", fields[found[1]], wanted or _words(error))
    blamed = [name for name in fields if name not in _STRUCTURE and _differs(attempt, fields, name, error)]
    if not 1 <= len(blamed) <= _MOST_BLAMED:
        return UserError(f"{where}: got fields that no model can be built with ({_words(error)})")
    if len(blamed) == 1:
        return invalid(f"{where}: {blamed[0]}", fields[blamed[0]], f"another value ({_words(error)})")
    values = ", ".join(repr(fields[name]) for name in blamed)
    return UserError(f"{where}: {', '.join(blamed)}: got {values}, expected values that fit together ({_words(error)})")


def _differs(attempt: Attempt, fields: dict[str, Any], name: str, error: Exception) -> bool:
    """Whether the error does not come as it came where a field is left to its default."""
    other = _fault(attempt, {key: value for key, value in fields.items() if key != name})
    return (type(other), str(other)) != (type(error), str(error))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _words(error: Exception) -> str:
    """Return what an error says, in one line; the types of its causes say nothing to whoever reads it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith(("Validation error", "Class validation error")) and len(lines) > 1:
        return re.sub(r"^\w+: ", "", lines[1])
    text = " ".join(lines)[:300]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"
