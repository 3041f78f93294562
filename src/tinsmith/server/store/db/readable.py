"""Rows as they are: what cannot be read of one is named, and costs none of the others."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sqlalchemy import JSON, Column, Connection, Select, Text, cast, select
from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.store.db.tables import Base

log = logging.getLogger("tinsmith.server")

# Of the driver, which cannot decode a value, and of SQLAlchemy, which makes Python's values of the driver's.
_UNREADABLE = (SQLAlchemyError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class Found:
    """A row that was read.

    Attributes:
        key: its primary key.
        row: its values as attributes; None for what cannot be read.
        faults: what is wrong with each of those, by column.
        table: where it lies.
    """

    key: Any
    row: Any
    faults: dict[str, str]
    table: str

    def fault(self, *columns: str) -> str | None:
        """Say in one line that one of these columns, or of all, cannot be read; None where they can."""
        found = [said for column, said in self.faults.items() if not columns or column in columns]
        return f"database: row {self.key!r} of {self.table} cannot be read: {'; '.join(found)}" if found else None


def read_rows(connection: Connection, table: type[Base], query: Select[Any]) -> list[Found]:
    """Return the rows of a table that a query finds, whichever of its columns it names.

    Raises:
        SQLAlchemyError: not even their list can be read.
    """
    columns: list[Any] = list(table.__table__.columns)
    [key] = [column for column in columns if column.primary_key]
    wanted = [_plain(column) for column in columns]
    try:
        rows = [dict(row) for row in connection.execute(query.with_only_columns(*wanted)).mappings()]
    except _UNREADABLE:
        # One value that cannot be decoded spoils the answer for all rows, so each is read by itself.
        keys = list(connection.execute(query.with_only_columns(key)).scalars())
        rows = [_salvage(connection, columns, key == value) for value in keys]
    return [_checked(table.__tablename__, columns, key, row) for row in rows]


def _plain(column: Column[Any]) -> Any:
    # JSON as its text: parsing it in the driver would end the whole answer at the first one that is none.
    return cast(column, Text).label(column.key) if isinstance(column.type, JSON) else column


def _salvage(connection: Connection, columns: list[Column[Any]], where: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in columns:
        try:
            row[column.key] = connection.execute(select(_plain(column)).where(where)).scalar()
        except _UNREADABLE as error:
            row[column.key] = error
    return row


def _checked(table: str, columns: list[Column[Any]], key: Column[Any], row: dict[str, Any]) -> Found:
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for column in columns:
        try:
            values[column.key] = _value(column, row[column.key])
        except ValueError as error:
            values[column.key] = None
            faults[column.key] = f"{column.key}: {error}"
    return Found(row[key.key], SimpleNamespace(**values), faults, table)


def _value(column: Column[Any], value: Any) -> Any:
    if isinstance(value, Exception):
        raise ValueError("got bytes that cannot be decoded")
    if isinstance(column.type, JSON):
        # `null` is what SQLAlchemy writes for None.
        value = json.loads(value) if isinstance(value, str) else value
        if value is None and column.nullable:
            return None
        if not isinstance(value, dict | list):
            raise ValueError(f"got {value!r}, expected JSON")
        return value
    if value is None and column.nullable:
        return None
    wanted: type = column.type.python_type
    # SQLite keeps whole numbers of a float column as they come.
    if wanted is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, wanted):
        raise ValueError(f"got {value!r}, expected {wanted.__name__}")
    return value


def sound(found: list[Found]) -> list[Any]:
    """Return the rows that can be read; the others are named in the log."""
    for one in found:
        if (fault := one.fault()) is not None:
            log.error("%s", fault)
    return [one.row for one in found if not one.faults]
