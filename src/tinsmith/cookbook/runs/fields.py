"""Fields of a config: the check of their types, and those types in a reader's words."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from enum import Enum
from typing import Any

import chz
from chz.tiepin import is_subtype_instance

from tinsmith.types.errors import invalid

_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "None",
}


def check_types(config: Any) -> None:
    """Check that every field of a config has a value of its type.

    Raises:
        UserError: one has not.
    """
    for name, field in chz.chz_fields(config).items():
        value = getattr(config, name)
        if not is_subtype_instance(value, field.final_type):
            raise invalid(name, value, words(field.final_type))


def words(annotation: Any) -> str:
    """Return what a type expects: `a whole number or None`, `one of constant, linear`."""
    names = choices(annotation)
    if names:
        return " or ".join([f"one of {', '.join(names)}", *(["None"] if _optional(annotation) else [])])
    return " or ".join(_WORDS.get(part, _name(part)) for part in _parts(annotation))


def choices(annotation: Any) -> list[str]:
    """Return the names that an enumeration or a `Literal` allows; other types have none."""
    found: list[str] = []
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Enum):
            found += [str(member.value) for member in part]
        elif typing.get_origin(part) is typing.Literal:
            found += [str(value) for value in typing.get_args(part)]
    return found


def near(name: str, names: Iterable[str]) -> str:
    """Return a question after the name that was meant, if one is near: ` (did you mean ...?)`."""
    # 0.6 is difflib's own bound: below it, suggestions puzzle more than they help.
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" (did you mean {found[0]}?)" if found else ""


def typed(value: object) -> str:
    """Return a value as one would type it."""
    return str(value.value) if isinstance(value, Enum) else str(value)


def _parts(annotation: Any) -> tuple[Any, ...]:
    # `int | None` and `Optional[int]` are two types at run time.
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _optional(annotation: Any) -> bool:
    return type(None) in _parts(annotation)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
