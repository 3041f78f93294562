"""A base model's folder as a whole: its config, the files beside its weights, and its safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinsmith.model_files.reading import check_file, file_error, read_object, read_optional, read_text
from tinsmith.model_files.safetensors_header import LENGTH_BYTES, TensorEntry, header_length, parse_header
from tinsmith.types.errors import invalid

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

# Sizes that every architecture counts in whole numbers; what has none of them needs none.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
# Beyond any model, and what still fits into the numbers of a message or a database.
_LARGEST = 2**31 - 1
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What safetensors itself allows a header.
_LONGEST_HEADER = 100_000_000
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.msgpack", "*.h5")


def read_config(place: str, folder: Path) -> dict[str, Any]:
    """Return the fields of `config.json`.

    Args:
        place: what messages call the model, e.g. `base model NAME`.
        folder: of the model.

    Raises:
        UserError: there is none, or a field that every model has is none that a model can have.
    """
    path = folder / CONFIG
    config = read_object(place, path)
    where = f"{place}: {path}"
    if not isinstance(config.get("model_type"), str):
        raise invalid(f"{where}: model_type", config.get("model_type"), "the name of an architecture")
    for field in _SIZES:
        value = config.get(field)
        # A few architectures have a list, one size per layer; null is for the architecture to judge.
        if value is None or isinstance(value, list):
            continue
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise invalid(f"{where}: {field}", value, f"a whole number from 1 to {_LARGEST}")
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise invalid(f"{where}: num_key_value_heads", groups, f"a divisor of num_attention_heads ({heads})")
    _check_experts(where, config)
    _check_token_ids(where, config)
    return config


def _check_experts(where: str, config: dict[str, Any]) -> None:
    chosen = config.get("num_experts_per_tok")
    for field in ("num_experts", "num_local_experts"):
        experts = config.get(field)
        if type(experts) is int and experts > 0 and type(chosen) is int and not 1 <= chosen <= experts:
            raise invalid(f"{where}: num_experts_per_tok", chosen, f"a whole number from 1 to {field} ({experts})")


def _check_token_ids(where: str, fields: dict[str, Any]) -> None:
    for field in _TOKEN_IDS:
        value: Any = fields.get(field)
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if type(token) is not int or abs(token) > _LARGEST:
                raise invalid(f"{where}: {field}", value, "a token's id, or a list of them")


def check_companions(place: str, folder: Path) -> None:
    """Check the files beside the weights, but for what only a tokenizer can say of itself.

    Raises:
        UserError: one of them cannot be read, or has a field of another type.
    """
    _check_token_ids(f"{place}: {folder / GENERATION}", read_optional(place, folder / GENERATION))
    read_optional(place, folder / SPECIAL_TOKENS)
    template: Any = read_optional(place, folder / TOKENIZER_CONFIG).get("chat_template")
    if not _is_template(template):
        expected = "a template, or a list of objects with name and template"
        raise invalid(f"{place}: {folder / TOKENIZER_CONFIG}: chat_template", template, expected)
    if (folder / TEMPLATE).exists():
        read_text(place, folder / TEMPLATE, "a chat template")
    if (folder / TOKENIZER).exists():
        check_file(place, folder / TOKENIZER, "a tokenizer")


def _is_template(template: Any) -> bool:
    if template is None or isinstance(template, str):
        return True
    return isinstance(template, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in template
    )


def read_weights(place: str, folder: Path) -> dict[str, dict[str, TensorEntry]]:
    """Return the tensors of each weights file, in their order, from the headers alone.

    Raises:
        UserError: there are no safetensors, a file is missing or cut off, or the index is none.
    """
    names = _weight_files(place, folder)
    return {name: _read_header(place, folder / name) for name in names}


def _weight_files(place: str, folder: Path) -> list[str]:
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
            found = f"no safetensors but {', '.join(others[:3])}" if others else "no weights"
            hint = ": save it anew with `save_pretrained`, which writes safetensors" if others else ""
            raise file_error(place, folder, found, f"{SINGLE} or {INDEX}{hint}")
        return [SINGLE]
    where = f"{place}: {folder / INDEX}: weight_map"
    places: Any = read_object(place, folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise invalid(where, places, "an object from tensors to files")
    for tensor, file in places.items():
        if not isinstance(file, str) or os.path.basename(file) != file:
            raise invalid(f"{where}: {tensor}", file, "the name of a file in this folder")
    names = sorted(set(places.values()))
    for name in names:
        if not (folder / name).exists():
            raise file_error(place, folder / name, "no such file", f"the weights that {INDEX} says are there")
    return names


def _read_header(place: str, path: Path) -> dict[str, TensorEntry]:
    check_file(place, path, "safetensors")
    where = f"{place}: {path}"
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = header_length(where, opened.read(LENGTH_BYTES), _LONGEST_HEADER)
        entries, data = parse_header(where, opened.read(length))
    wanted = LENGTH_BYTES + length + data
    if size != wanted:
        raise file_error(place, path, f"{size} bytes", f"{wanted} as its header says; it may be cut off")
    return entries
