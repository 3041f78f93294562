"""Values that came out of a program: read from JSON, and compared with what was expected."""

from __future__ import annotations

import math
from typing import Any

# Results of floating-point arithmetic depend on the order of operations, which a problem leaves open.
RELATIVE, ABSOLUTE = 1e-6, 1e-9


def decode(sent: Any) -> Any:
    """Return the value that `guest.encode` wrote.

    Raises:
        ValueError: that is not its form; a program may have written it.
    """
    try:
        return _decode(sent)
    except (KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"not a value: {error}") from error


def _decode(sent: Any) -> Any:
    if sent is None or isinstance(sent, bool | str):
        return sent
    if isinstance(sent, list):
        return [_decode(each) for each in sent]
    ((kind, content),) = sent.items()
    match kind:
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
        case "complex":
            return complex(*map(float, content))
        case "bytes":
            return bytes.fromhex(content)
        case "tuple":
            return tuple(_decode(each) for each in content)
        case "set":
            return {_decode(each) for each in content}
        case "dict":
            return {_decode(key): _decode(value) for key, value in content}
    raise ValueError(f"not a kind of value: {kind}")


def same(found: Any, expected: Any) -> bool:
    """Return whether two values are equal as `==` has it, floats up to rounding.

    A value of another kind is not equal: a list is not a tuple. True is 1, as everywhere in Python.
    """
    if isinstance(expected, float) and isinstance(found, int | float):
        return _close(found, expected)
    if isinstance(expected, list | tuple):
        if type(found) is not type(expected) or len(found) != len(expected):
            return False
        return all(same(one, other) for one, other in zip(found, expected, strict=True))
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], value) for key, value in expected.items())
        )
    return bool(found == expected)


def _close(found: float, expected: float) -> bool:
    try:
        return math.isclose(found, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except OverflowError:  # a whole number larger than any float
        return False


def same_text(found: str, expected: str) -> bool:
    """Return whether two outputs are equal, white space at the ends of lines and empty lines at the end aside."""
    return _lines(found) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
