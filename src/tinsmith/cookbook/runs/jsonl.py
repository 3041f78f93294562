"""JSONL files that are whole at any moment: rows in the order of the calls, kept and tried again where they fail."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinsmith.types.errors import UserError

logger = logging.getLogger("tinsmith.cookbook")
Row = dict[str, Any]


class JsonlWriter:
    """Appends rows to JSONL files of one folder.

    Rows reach the disk in the order in which they were given, over all files: a row is there only after every earlier
    one is. A row that cannot be written stays in memory, with those after it, and is tried again with the next.

    Args:
        folder: where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._whole: dict[str, int] = {}
        self._warned = False

    def append(self, file: str, row: Mapping[str, Any]) -> None:
        """Append a row; raises nothing where the disk fails."""
        self._waiting.append((file, json.dumps(row).encode() + b"\n"))
        self.flush()

    def flush(self) -> bool:
        """Write what waits; return whether everything is on disk now."""
        try:
            # In order over all files: the checkpoint behind a row of metrics that does not fit waits with it.
            while self._waiting:
                file, line = self._waiting[0]
                self._write(file, line)
                self._waiting.popleft()
        except OSError as error:
            if not self._warned:
                logger.warning(
                    f"{self._folder / self._waiting[0][0]}: cannot be written ({error.strerror}); the run goes on, "
                    "rows are kept in memory and written when there is room"
                )
            self._warned = True
            return False
        if self._warned:
            logger.warning(f"{self._folder}: can be written again; no row is missing")
            self._warned = False
        return True

    def unwritten(self) -> dict[str, list[str]]:
        """Return the rows that are in memory only, by file."""
        found: dict[str, list[str]] = {}
        for file, line in self._waiting:
            found.setdefault(file, []).append(line.decode().strip())
        return found

    def _write(self, file: str, line: bytes) -> None:
        descriptor = os.open(self._folder / file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # By position, not by appending: a line that was written in half before has to be overwritten.
            size = os.fstat(descriptor).st_size
            whole = min(self._whole.get(file, size), size)
            if size > whole:  # the end of a line that did not fit and could not be cut off then
                os.ftruncate(descriptor, whole)
            self._whole[file] = whole
            try:
                _write_all(descriptor, line, whole)
            # The half line goes at once: whoever reads the file meanwhile sees whole rows.
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            self._whole[file] = whole + len(line)
        finally:
            os.close(descriptor)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSONL file; a last line that a crash cut off is left out, a file that is not there is empty.

    Raises:
        UserError: another line is no JSON object.
    """
    rows: list[Row] = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise UserError(f"{path}, line {number}: got {line[:80]!r}, expected a JSON object")
    return rows


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> None:
    """Drop the other rows of a JSONL file, and a last line that was cut off, in one move."""
    if not path.exists():
        return
    text = "".join(json.dumps(row) + "\n" for row in read_rows(path) if keep(row))
    if text.encode() != path.read_bytes():
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one move, so that a crash leaves the old one or the new one."""
    # In the same folder: a rename is one move only within a disk.
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def _parse(line: bytes) -> Row | None:
    # A line without its end is one that a crash cut off, even if what is there is JSON.
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
