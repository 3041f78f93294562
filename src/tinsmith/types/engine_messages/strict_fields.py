"""Dataclasses as plain fields that JSON and msgpack can hold, read back so that nothing is dropped unnoticed."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T", bound="StrictFields")


class StrictFields:
    """Base of dataclasses that are stored or sent: a field that the class does not know is refused, never ignored.

    Somebody wrote that field for a reason. Carrying on without it would run an operation that nobody asked for.
    """

    __slots__ = ()
    # Where pydantic looks for the configuration of a plain dataclass; it reaches nested ones too.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    # Made when first needed: each takes milliseconds, and a process that only trains needs few of them.
    return TypeAdapter(cls)


def to_fields(value: StrictFields) -> dict[str, Any]:
    """Return the fields of a dataclass by name; what is nested becomes dicts too."""
    return _adapter(type(value)).dump_python(value)


def from_fields(cls: type[T], fields: object, where: str) -> T:
    """Read what `to_fields` returned.

    Args:
        where: what messages call it.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type.
    """
    try:
        return _adapter(cls).validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, [where, *first["loc"]]))
        got = "nothing" if first["type"] == "missing" else repr(first["input"])
        raise ValueError(f"{path}: got {got}, expected the fields of {cls.__name__} ({first['msg']})") from error
