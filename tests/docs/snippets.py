"""The Python blocks of a page, and one interpreter into which they are pasted in order."""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("README.md"))]
# A block that holds a fence of its own has a longer one around it.
_BLOCK = re.compile(r"^(```+)python\n(.*?)^\1$(?:\n\n```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
_TOLD = re.compile(r"^print\(.*\)  # → (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A Python block of a page.

    Attributes:
        place: page and line of the first line of code, for tracebacks.
        code: as it stands on the page.
        printed: lines that the page says it prints: `print(...)  # → text`, or a fence right behind the block.
    """

    place: str
    code: str
    printed: tuple[str, ...]


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT)
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        place = f"{name}:{text.count(chr(10), 0, match.start(2)) + 1}"
        found.append(Block(place, match[2], (*_TOLD.findall(match[2]), *(match[3] or "").splitlines())))
    return found


def paste(blocks: Sequence[Block], monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str] = ()) -> dict[str, object]:
    """Run blocks one after the other in one namespace, as a reader pastes them, and return the namespace.

    The namespace is that of a module `__main__`, so that what is meant for a program of its own runs, too. `await` may
    stand outside of functions, as in a notebook and in `python -m asyncio`; one event loop serves the whole page.

    Args:
        blocks: of one page.
        monkeypatch: of the test, which takes `__main__` and `sys.argv` back.
        arguments: of the command line, for blocks that read it.
    """
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["page.py", *arguments])
    with asyncio.Runner() as runner:
        for block in blocks:
            # So that a traceback shows the line of the page.
            linecache.cache[block.place] = (len(block.code), None, block.code.splitlines(keepends=True), block.place)
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            running = eval(compile(block.code, block.place, "exec", flags, dont_inherit=True), main.__dict__)
            if inspect.iscoroutine(running):
                runner.run(running)
    return main.__dict__
