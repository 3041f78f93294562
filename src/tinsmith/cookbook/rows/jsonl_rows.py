"""JSONL files: checked line by line when opened, read row by row when needed."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import orjson

from tinsmith.cookbook.rows.row_digest import digest_of_file
from tinsmith.cookbook.rows.row_kinds import KINDS, Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.types.errors import UserError, invalid


class JsonlRows(Rows):
    """The rows of a JSONL file, one JSON object a line.

    Opening reads the file once and checks every line; rows themselves stay on disk. Empty lines are skipped.

    Args:
        path: where the file lies.
        check: what every row has to pass; returns it.
        field: the setting that names the file, for messages about it.

    Raises:
        UserError: no such file, no rows, or a line that is no row; names file and line.
    """

    def __init__(self, path: str | Path, check: RowCheck = check_row, field: str = "data") -> None:
        self.path = Path(path)
        self._check = check
        # Per row: byte offset and line number.
        # 16 bytes a row, where the row itself as Python objects would take more than the file.
        self._offsets, self._lines = array("Q"), array("Q")
        offset = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        self._parse(line, number)
                        self._offsets.append(offset)
                        self._lines.append(number)
                    offset += len(line)
        except OSError as error:
            raise invalid(field, str(path), f"a JSONL file that can be read ({error.strerror})") from error
        if not self._offsets:
            raise invalid(field, str(path), "a JSONL file with at least one row")

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, index: int) -> str:
        return f"{self.path}, line {self._lines[index]}"

    def read(self, index: int) -> Row:
        with self.path.open("rb") as file:
            # Checked again: the file may have been edited since, and half a row must not be trained on.
            file.seek(self._offsets[index])
            return self._parse(file.readline(), self._lines[index])

    def digest(self) -> str:
        return digest_of_file(self.path)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            row = _decode(line)
            if isinstance(row, list):
                raise UserError("a list, expected one row a line (jq -c '.[]' makes a list such lines)")
            return self._check(_of_one_kind(row) if isinstance(row, dict) else row)
        except UserError as error:
            raise UserError(f"{self.path}, line {number}: {error}") from None


def _of_one_kind(row: Row) -> Row:
    """Drop the fields of other kinds of rows that are null: a table of several kinds is written so."""
    given = {name for name, value in row.items() if value is not None}
    if not any(given.issuperset(kind) for kind in KINDS):
        return row
    return {name: value for name, value in row.items() if name in given or not any(name in kind for kind in KINDS)}


def _decode(line: bytes) -> Any:
    # orjson is several times as fast and strict; only what it refuses is looked at by the slow way.
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return _decode_with_reason(line)


def _decode_with_reason(line: bytes) -> Any:
    """Read what is no strict JSON: says why it is none, or takes it where only a byte order mark or a NaN is wrong."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
    try:
        row = json.loads(text.rstrip())
        json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except UnicodeEncodeError:
        raise UserError("not text (half of a surrogate pair, \\ud800 to \\udfff, stands alone)") from None
    except RecursionError:
        raise UserError("not a row (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"not JSON that can be read ({error})") from None
    return row
