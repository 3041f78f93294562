"""Cutting a cleaned text at signs that stand outside all brackets."""

from __future__ import annotations

import re
from collections.abc import Collection

_TOKEN = re.compile(r"\\\\|\\[A-Za-z]+|\\.|[^\\]", re.DOTALL)
# Any bracket closes any other, for half-open intervals.
_DEPTH = {
    **dict.fromkeys(("(", "[", "{", r"\{", r"\langle", r"\begin"), 1),
    **dict.fromkeys((")", "]", "}", r"\}", r"\rangle", r"\end"), -1),
}


def split(text: str, signs: Collection[str]) -> tuple[list[str], list[str]] | None:
    """Cut a text at signs outside brackets: the parts, without spaces around them, and the signs between them.

    None where the brackets do not close.
    """
    parts, found, depth, start = [], [], 0, 0
    for token in _TOKEN.finditer(text):
        depth += _DEPTH.get(token[0], 0)
        if depth < 0:
            return None
        if depth == 0 and token[0] in signs:
            parts.append(text[start : token.start()].strip())
            found.append(token[0])
            start = token.end()
    parts.append(text[start:].strip())
    return (parts, found) if depth == 0 else None


def in_brackets(text: str) -> tuple[str, str, str] | None:
    """Return the opening bracket, what is inside, and the closing one, where one pair holds the whole text."""
    depth = 0
    opening = ""
    for token in _TOKEN.finditer(text):
        depth += _DEPTH.get(token[0], 0)
        opening = opening or token[0]
        if depth < 1:
            if token.end() != len(text) or depth < 0 or token[0] == r"\end" or token.start() == 0:
                return None
            return opening, text[len(opening) : token.start()].strip(), token[0]
    return None
