"""Values that may be written as JSON texts, since a column of a table has one type."""

from __future__ import annotations

from typing import Any

import orjson

from tinsmith.types.errors import invalid


def read_json(value: Any, field: str, expected: str) -> Any:
    """Return what a text says as JSON; any other value is returned as it is.

    Args:
        value: a text, or not.
        field: that holds it, for the message.
        expected: what the text is to be.

    Raises:
        UserError: it is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise invalid(field, value, f"{expected}, or JSON of it ({error})") from None
