"""JSON that is laid out over several lines: one list of rows, or one object after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinsmith.types.errors import UserError

_BLANKS = " \t\r\n"


def read_documents(path: Path) -> list[tuple[int, Any]]:
    """Return the values of a JSON file, each with the line where it begins; a list gives its items.

    Raises:
        UserError: the file is no JSON; names the line.
        OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None
    try:
        return list(_values(text))
    except json.JSONDecodeError as error:
        # `lineno` counts "\n" alone, as an editor does.
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg} at character {error.colno})") from None
    except RecursionError:
        raise UserError(f"{path}: not rows (nested too deeply)") from None


def _values(text: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _behind_blanks(text, 0)
    while position < len(text):
        # Item by item: each has a line of its own, and half of the list's memory is enough.
        inside = text[position] == "["
        position = _behind_blanks(text, position + 1) if inside else position
        if inside and text[position : position + 1] == "]":
            position = _behind_blanks(text, position + 1)
            continue
        while True:
            line, counted = line + text.count("\n", counted, position), position
            value, position = decoder.raw_decode(text, position)
            yield line, value
            position = _behind_blanks(text, position)
            if not inside:
                break
            end = text[position : position + 1]
            if end not in (",", "]") or not end:
                raise json.JSONDecodeError("Expecting ',' or ']' behind an item of the list", text, position)
            position = _behind_blanks(text, position + 1)
            if end == "]":
                break


def _behind_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANKS:
        position += 1
    return position
