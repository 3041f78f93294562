"""`tokenizer.json`, loaded; where the library refuses it, the part that is to blame is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.model_files.reading import parse_object, read_text
from tinsmith.types.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Parts that a tokenizer can do without, each with what stands for "none".
_PARTS: dict[str, Any] = {
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "added_tokens": [],
    "truncation": None,
    "padding": None,
}


def load_tokenizer(place: str, path: Path) -> Tokenizer:
    """Load a tokenizer.

    Args:
        place: whose it is, e.g. `base model NAME`.
        path: of its `tokenizer.json`.

    Raises:
        UserError: the file cannot be read, or no tokenizer can be made of it; names the part that is to blame.
    """
    return make_tokenizer(f"{place}: {path}", read_text(place, path, "a tokenizer"))


def make_tokenizer(where: str, text: str) -> Tokenizer:
    """Make a tokenizer of the text of a `tokenizer.json`.

    Args:
        where: what messages call the file.
        text: of the file.

    Raises:
        UserError: no tokenizer can be made of it; names the part that is to blame.
    """
    # Native code that takes a while to load, and that most processes need late or never.
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    # The library raises a bare Exception for whatever is wrong.
    except Exception as error:
        raise _explained(where, parse_object(where, text), error) from error


def _explained(where: str, fields: dict[str, Any], error: Exception) -> UserError:
    for part, nothing in _PARTS.items():
        if part in fields and _loads({**fields, part: nothing}):
            kind = fields[part].get("type") if isinstance(fields[part], dict) else None
            found = f"type {kind!r}" if kind is not None else f"type {type(fields[part]).__name__}"
            return UserError(f"{where}: {part}: got one of {found} ({error}), expected one that `tokenizers` knows")
    model: Any = fields.get("model")
    kind = model.get("type") if isinstance(model, dict) else model
    return UserError(f"{where}: model: got {kind!r} ({error}), expected a whole one that `tokenizers` knows")


def _loads(fields: dict[str, Any]) -> bool:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(json.dumps(fields))
    except Exception:
        return False
    return True
