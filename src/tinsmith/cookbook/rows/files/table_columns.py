"""What the tables of all kinds share: which columns they need, and how a row of theirs becomes one of a JSONL file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from tinsmith.cookbook.rows.formats.own_form import FOREIGN_KINDS, KINDS, Row, expected_of
from tinsmith.types.errors import invalid

_KINDS = (*KINDS, *FOREIGN_KINDS)
# What cannot be a text, and so is JSON where it is one. (Tools and turns of other formats are read with their rows.)
_JSON_FIELDS = ("messages", "tools")
# Refuses a table, of a path, that has not the columns it needs.
ColumnCheck = Callable[[Path, Sequence[str]], None]


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Check that a table has columns to learn from, each once.

    Raises:
        UserError: it has not; names the ones it has.
    """
    # Twice, one of them would silently win.
    for name in (*chain.from_iterable(_KINDS), "tools"):
        if columns.count(name) > 1:
            raise invalid(f"{path}: columns", ", ".join(columns), f"{name} once")
    if not any(all(name in columns for name in kind) for kind in _KINDS):
        raise invalid(f"{path}: columns", ", ".join(columns), expected_of(columns))


def from_table(row: Row) -> Row:
    """Return a row as a JSONL file would have it: fields without a value left out, JSON texts read.

    Raises:
        UserError: a text is no JSON.
    """
    found: Row = {}
    for name, value in row.items():
        # A table has all columns in all rows: what a row has no value for, it does not have.
        if value is None:
            continue
        if name not in _JSON_FIELDS or not isinstance(value, str):
            found[name] = _without_nulls(value)
            continue
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise invalid(name, value, f"JSON ({error})") from None
    return found


def _without_nulls(value: Any) -> Any:
    """Drop what a nested table holds only because another row has it: its structs all have the same fields."""
    if isinstance(value, dict):
        return {name: _without_nulls(field) for name, field in value.items() if field is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
