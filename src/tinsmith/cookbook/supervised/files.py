"""JSONL files of conversations or texts, checked line by line when opened, read row by row when needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.renderers.messages import check_messages
from tinsmith.types.errors import UserError, invalid

Row = dict[str, Any]


class JsonlRows(Sequence[Row]):
    """The rows of a JSONL file, `{"messages": [...]}` or `{"text": "..."}` each; other keys are kept as they are.

    Opening reads the file once and checks every line; rows themselves stay on disk. Empty lines are skipped.

    Args:
        path: of the file.
        renderer: whose format has to be able to say every conversation; None asks for well-formed ones only.

    Raises:
        UserError: no such file, no rows, or a line that is no conversation; names file and line.
    """

    def __init__(self, path: str | Path, renderer: Renderer | None = None) -> None:
        self.path = Path(path)
        self._renderer = renderer
        # Byte offset and line number of each row.
        self._places: list[tuple[int, int]] = []
        offset = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._parse(line, number)
                        self._places.append((offset, number))
                    offset += len(line)
        except OSError as error:
            raise invalid("data", str(path), f"a JSONL file that can be read ({error.strerror})") from error
        if not self._places:
            raise invalid("data", str(path), "a JSONL file with at least one row")

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(self._read(self._places[index]))
        return next(self._read([self._places[index]]))

    def __iter__(self) -> Iterator[Row]:
        return self._read(self._places)

    def _read(self, places: list[tuple[int, int]]) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for offset, number in places:
                file.seek(offset)
                yield self._parse(file.readline(), number)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            return check_row(_decode(line), self._renderer)
        except UserError as error:
            raise UserError(f"{self.path}, line {number}: {error}") from None


def check_row(row: Any, renderer: Renderer | None = None) -> Row:
    """Return a row that can be trained on.

    Raises:
        UserError: it is neither a conversation with an answer in it nor a text, or the renderer cannot say it.
    """
    if not isinstance(row, dict):
        raise invalid("row", row, 'an object with "messages" or "text"')
    if ("messages" in row) == ("text" in row):
        raise invalid("row", sorted(row), 'either "messages" or "text"')
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise invalid("text", row["text"], "a text that is not empty")
        return row
    if not isinstance(row["messages"], list):
        raise invalid("messages", row["messages"], "a list of messages")
    messages = check_messages(row["messages"]) if renderer is None else renderer.check(row["messages"])
    for index, message in enumerate(messages):
        if not message.text.strip() and not message.tool_calls:
            raise invalid(f"messages[{index}].content", message.text, "content that is not empty")
    if all(message.role != "assistant" for message in messages):
        roles = [message.role for message in messages]
        raise invalid("messages", f"roles {', '.join(roles)}", "at least one message of the assistant to learn from")
    return row


def _decode(line: bytes) -> Any:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
    try:
        row = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise UserError("not a row (nested too deeply)") from None
    if "\\ud" in text.lower() and not _is_text(row):
        raise UserError("not text (half of a surrogate pair, \\ud800 to \\udfff, stands alone)")
    return dict(row) if isinstance(row, Mapping) else row


def _is_text(row: Any) -> bool:
    """Whether every string of a row is Unicode text; JSON can spell halves of characters, which no tokenizer reads."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
