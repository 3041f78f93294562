"""Parquet files: checked row by row when opened, read row by row when needed."""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_right
from functools import partial
from pathlib import Path
from typing import Any

from tinsmith.cookbook.rows.files.table_columns import ColumnCheck, check_columns, from_table
from tinsmith.cookbook.rows.intake import Intake
from tinsmith.cookbook.rows.row_digest import digest_of_file
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import Rows
from tinsmith.types.errors import UserError, invalid

# Rows that are decoded together.
_CHUNK = 256


class ParquetRows(Rows):
    """The rows of a Parquet file; `messages` and `tools` may be nested, or JSON texts.

    Opening checks every row and copies the columns, uncompressed, to a temporary Arrow file that is mapped into memory:
    a row group of a Parquet file cannot be read in part, so rows in random order would each decode a whole one. The
    copy has no name and goes away with the object, or its process; `TMPDIR` says where it lies.

    Args:
        path: where the file lies.
        check: what every row has to pass; returns it.
        columns: refuses a table without the columns that such rows need.
        skip: whether rows that fail are left out, or an error; None where whoever reads cannot choose.

    Raises:
        UserError: no such file, no column to learn from, or rows that are none; names file, rows (from 0) and columns.
    """

    def __init__(
        self,
        path: str | Path,
        check: RowCheck = check_row,
        columns: ColumnCheck = check_columns,
        *,
        skip: bool | None = None,
    ) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = Path(path)
        self._check = check
        # Rows of the copy that passed.
        self._good = array("Q")
        intake = Intake(str(self.path), check, skip)
        try:
            # The columns first: a file of another kind is refused before it is unpacked.
            with pyarrow.parquet.ParquetFile(path) as file:
                columns(self.path, file.schema_arrow.names)
                self._starts = array("Q", [0])
                self._chunks = self._unpacked(file, intake)
        except (OSError, pyarrow.ArrowException) as error:
            raise invalid("data", str(path), f"a Parquet file that can be read ({error})") from error
        self._facts = intake.close()
        if not len(self):
            raise invalid("data", str(path), "a Parquet file with at least one row")

    def _unpacked(self, file: Any, intake: Intake) -> Any:
        """Check all rows and return the mapped copy, in chunks."""
        import pyarrow
        import pyarrow.ipc

        # An Arrow file has one dictionary per column, Parquet one per row group.
        schema = pyarrow.schema(
            [
                field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field
                for field in file.schema_arrow
            ]
        )
        # What is mapped stays when its name is gone, and a process that is killed leaves nothing.
        with tempfile.NamedTemporaryFile(prefix="tinsmith-", suffix=".arrow") as named:
            with pyarrow.ipc.new_file(named.name, schema) as copy:
                for batch in file.iter_batches(batch_size=_CHUNK):
                    for index, row in enumerate(batch.to_pylist(), self._starts[-1]):
                        if intake.take(self._place(index), partial(from_table, row)) is not None:
                            self._good.append(index)
                    copy.write_batch(batch.cast(schema))
                    self._starts.append(self._starts[-1] + batch.num_rows)
            return pyarrow.ipc.open_file(pyarrow.memory_map(named.name))

    def __len__(self) -> int:
        return len(self._good)

    def place(self, index: int) -> str:
        return self._place(self._good[index])

    def read(self, index: int) -> Row:
        place = self._good[index]
        # `starts` is sorted: row i lies in the last chunk that begins at i or before.
        chunk = bisect_right(self._starts, place) - 1
        (row,) = self._chunks.get_batch(chunk).slice(place - self._starts[chunk], 1).to_pylist()
        try:
            return self._check(from_table(row), notes=RowNotes())
        except UserError as error:
            raise UserError(f"{self._place(place)}: {error}") from None

    def digest(self) -> str:
        return digest_of_file(self.path)

    def remarks(self) -> dict[str, object]:
        return self._facts

    def _place(self, row: int) -> str:
        return f"{self.path}, row {row}"
