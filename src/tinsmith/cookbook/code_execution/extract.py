"""The program in an answer."""

from __future__ import annotations

import re
from typing import NamedTuple

# A fence is at least three backticks at the start of a line; its closing one is as long.
_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*\n(?P<code>.*?)^ {0,3}(?P=fence)`*[ \t]*$", re.M | re.S
)
_PYTHON = ("", "py", "python", "python3")


class Extracted(NamedTuple):
    """A program, and whether it stood in a fence, as it should."""

    code: str
    fenced: bool


def extract_code(answer: str) -> Extracted:
    """Return the program in an answer.

    That is the last fenced block that is closed and is marked as Python or not at all; an answer without such a block
    is taken as a whole, so that a model that knows no fences can answer too.
    """
    blocks = [found["code"] for found in _BLOCK.finditer(answer) if found["language"].lower() in _PYTHON]
    return Extracted(blocks[-1], True) if blocks else Extracted(answer, False)
