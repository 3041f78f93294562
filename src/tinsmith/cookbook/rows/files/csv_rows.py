"""CSV files: checked row by row when opened, read row by row when needed."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tinsmith.cookbook.rows.files.file_kinds import check_is_text
from tinsmith.cookbook.rows.files.table_columns import ColumnCheck, check_columns, from_table
from tinsmith.cookbook.rows.intake import Intake
from tinsmith.cookbook.rows.row_digest import digest_of_file
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.types.errors import UserError, invalid

# Longest field in characters; the module's own limit is below a long conversation.
_LONGEST_FIELD = 2**31 - 1


class CsvRows(Rows):
    """The rows of a CSV file with a header, whose columns are the keys of a row; `messages` and `tools` are JSON texts.

    Opening reads the file once and checks every row; rows themselves stay on disk. Fields may span lines.

    Args:
        path: of the file, UTF-8.
        check: what every row has to pass.
        columns: refuses a table without the columns that such rows need.
        skip: whether rows that fail are left out, or an error; None where whoever reads cannot choose.

    Raises:
        UserError: no such file, no column to learn from, or rows that are none; names file, lines and columns.
    """

    def __init__(
        self,
        path: str | Path,
        check: RowCheck = check_row,
        columns: ColumnCheck = check_columns,
        *,
        skip: bool | None = None,
    ) -> None:
        self.path = Path(path)
        self._check = check
        # Per row: byte offset and line number of its beginning.
        # A record may span lines, so where the next one begins is known only by reading this one.
        self._offsets, self._lines = array("Q"), array("Q")
        intake = Intake(str(self.path), check, skip)
        try:
            check_is_text(self.path)
            with self.path.open("rb") as file:
                records = self._records(file, 0, 1)
                _, _, header = next(records, (0, 1, []))
                self._columns = [name.strip() for name in header]
                columns(self.path, self._columns)
                for offset, line, fields in records:
                    if intake.take(self._place(line), partial(self._row, fields)) is not None:
                        self._offsets.append(offset)
                        self._lines.append(line)
        except OSError as error:
            raise invalid("data", str(path), f"a CSV file that can be read ({error.strerror})") from error
        self._facts = intake.close()
        if not self._offsets:
            raise invalid("data", str(path), "a CSV file with at least one row under its header")

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, index: int) -> str:
        return self._place(self._lines[index])

    def read(self, index: int) -> Row:
        with self.path.open("rb") as file:
            _, line, fields = next(self._records(file, self._offsets[index], self._lines[index]))
        try:
            return self._check(self._row(fields), notes=RowNotes())
        except UserError as error:
            raise UserError(f"{self._place(line)}: {error}") from None

    def digest(self) -> str:
        return digest_of_file(self.path)

    def remarks(self) -> dict[str, object]:
        return self._facts

    def _place(self, line: int) -> str:
        return f"{self.path}, line {line}"

    def _records(self, file: BinaryIO, offset: int, line: int) -> Iterator[tuple[int, int, list[str]]]:
        """Yield (byte offset, line number, fields) of the records from a place on; empty lines are none."""
        file.seek(offset)
        read_bytes, read_lines = offset, line

        def texts() -> Iterator[str]:
            nonlocal read_bytes, read_lines
            for content in file:
                try:
                    text = content.decode("utf-8-sig" if read_bytes == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    reason = f"not UTF-8 ({error.reason} at byte {error.start})"
                    raise UserError(f"{self.path}, line {read_lines}: {reason}") from None
                read_bytes += len(content)
                read_lines += 1
                yield text

        # Of the whole process, as the module has it, and so set for every pass: others may set it, too.
        csv.field_size_limit(_LONGEST_FIELD)
        records = csv.reader(texts(), strict=True)
        while True:
            # Before the record is read: the reader may take several lines for it.
            begin = read_bytes, read_lines
            try:
                fields = next(records, None)
            except csv.Error as error:
                raise UserError(f"{self.path}, line {begin[1]}: not CSV ({error})") from None
            if fields is None:
                return
            if fields:
                yield *begin, fields

    def _row(self, fields: list[str]) -> Row:
        if len(fields) != len(self._columns):
            expected = f"{len(self._columns)}: {', '.join(self._columns)}"
            raise invalid("row", f"{len(fields)} fields", expected)
        # An empty field is how CSV says that there is none, and `from_table` leaves out what is None.
        return from_table({n: v or None for n, v in zip(self._columns, fields, strict=True)})
