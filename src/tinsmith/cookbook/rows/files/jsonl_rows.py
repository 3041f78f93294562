"""JSONL files: checked line by line when opened, read row by row when needed."""

from __future__ import annotations

import json
from array import array
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from tinsmith.cookbook.rows.files.file_kinds import check_is_text
from tinsmith.cookbook.rows.files.json_documents import read_documents
from tinsmith.cookbook.rows.formats.own_form import LISTS
from tinsmith.cookbook.rows.intake import Intake
from tinsmith.cookbook.rows.row_digest import digest_of_file
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.types.errors import UserError, invalid


class JsonlRows(Rows):
    """The rows of a JSONL file, one JSON object a line; of one that is a single JSON list or indented, its objects.

    Opening reads the file once and checks every line; rows themselves stay on disk, but for those of a list, whose
    lines say nothing by themselves. Empty lines are skipped.

    Args:
        path: where the file lies.
        check: what every row has to pass; returns it.
        field: the setting that names the file, for messages about it.
        skip: whether rows that fail are left out, or an error; None where whoever reads cannot choose.

    Raises:
        UserError: no such file, no rows, or lines that are no rows; names file and lines.
    """

    def __init__(
        self, path: str | Path, check: RowCheck = check_row, field: str = "data", *, skip: bool | None = None
    ) -> None:
        self.path = Path(path)
        self._check = check
        # Per row: byte offset and line number.
        # 16 bytes a row, where the row itself as Python objects would take more than the file.
        self._offsets, self._lines = array("Q"), array("Q")
        self._held: list[Row] | None = None
        intake = Intake(str(self.path), check, skip)
        try:
            check_is_text(self.path, field)
            documents = self._documents()
            if documents is None:
                self._take_lines(intake)
            else:
                self._take_documents(intake, documents)
        except OSError as error:
            raise invalid(field, str(path), f"a JSONL file that can be read ({error.strerror})") from error
        self._facts = intake.close()
        if not len(self):
            raise invalid(field, str(path), "a JSONL file with at least one row")

    def __len__(self) -> int:
        return len(self._lines)

    def place(self, index: int) -> str:
        return self._place(self._lines[index])

    def read(self, index: int) -> Row:
        if self._held is not None:
            return self._held[index]
        with self.path.open("rb") as file:
            # Checked again: the file may have been edited since, and half a row must not be trained on.
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            return self._check(_row(line), notes=RowNotes())
        except UserError as error:
            raise UserError(f"{self.place(index)}: {error}") from None

    def digest(self) -> str:
        return digest_of_file(self.path)

    def remarks(self) -> dict[str, object]:
        return self._facts

    def _place(self, line: int) -> str:
        return f"{self.path}, line {line}"

    def _take_lines(self, intake: Intake) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace() and intake.take(self._place(number), partial(_row, line)) is not None:
                    self._offsets.append(offset)
                    self._lines.append(number)
                offset += len(line)

    def _take_documents(self, intake: Intake, documents: list[tuple[int, Any]]) -> None:
        self._held = []
        for number, value in documents:
            row = intake.take(self._place(number), lambda value=value: value)
            if row is not None:
                self._held.append(row)
                self._lines.append(number)
        if len(documents) == 1 and not self._held and (key := _list_of_objects(documents[0][1])) is not None:
            raise UserError(
                f"{self.path}: one JSON object, whose {key!r} holds a list; give the list alone: "
                f"jq -c '.[{orjson.dumps(key).decode()}][]' writes one row a line"
            )

    def _documents(self) -> list[tuple[int, Any]] | None:
        """Return the values of a file that is no JSON line by line, but as a whole; None for lines."""
        with self.path.open("rb") as file:
            first = next((line for line in file if not line.isspace()), b"").removeprefix(b"\xef\xbb\xbf").strip()
            more = any(not line.isspace() for line in file)
        if not first.startswith((b"{", b"[")):
            return None
        with suppress(orjson.JSONDecodeError):
            value = orjson.loads(first)
            # The lines of a JSONL file are objects. One object alone may be a list in a wrapping.
            if isinstance(value, dict) and (more or _list_of_objects(value) is None):
                return None
        try:
            return read_documents(self.path)
        except UserError:
            # A bracket that opens on a line of its own: of a list, or of an object that is laid out. Anything longer is
            # a line of JSONL with a mistake in it, which is best named as that.
            if first in (b"{", b"[", b"[{"):
                raise
            return None


def _list_of_objects(value: Any) -> str | None:
    """Return the one key under which an object holds a list of objects, if no other does."""
    if not isinstance(value, dict):
        return None
    lists = [key for key, held in value.items() if isinstance(held, list) and held and isinstance(held[0], dict)]
    # A row is an object with a list, too.
    return lists[0] if len(lists) == 1 and lists[0] not in LISTS else None


def _row(line: bytes) -> Any:
    row = _decode(line)
    if isinstance(row, list):
        raise UserError("a list, expected one row a line (jq -c '.[]' makes a list such lines)")
    return row


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
