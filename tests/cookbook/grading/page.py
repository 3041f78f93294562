"""The tables of the page on mathematical answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[3] / "docs" / "math-answers.md"


class Box(NamedTuple):
    """A line of the table of boxes."""

    text: str
    has: bool
    content: str | None


class Line(NamedTuple):
    """A line of a table of answers."""

    reference: str
    answer: str
    verdict: str


def _tables(header: str) -> list[list[str]]:
    page = PAGE.read_text(encoding="utf-8")
    tables = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    return [
        [_cell(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for table in tables for line in table.splitlines()
    ]


def _cell(cell: str) -> str:
    cell = cell.strip().replace(r"\|", "|")
    return cell[1:-1] if cell.startswith("`") else cell


def boxes() -> list[Box]:
    """Return the lines of the table of boxes."""
    rows = _tables("| text | `has_boxed` | `extract_boxed` |")
    return [Box(text, has == "yes", None if content == "none" else content) for text, has, content in rows]


def lines() -> list[Line]:
    """Return the lines of all tables of answers."""
    return [Line(*row) for row in _tables("| reference | answer | |")]


def reasons() -> set[str]:
    """Return the reasons that the page lists."""
    return {row[0] for row in _tables("| reason | |")}
