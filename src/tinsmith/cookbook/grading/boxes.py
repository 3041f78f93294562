"""Where in a text the answer stands: the last `\\boxed{...}`."""

from __future__ import annotations

import re

# `\boxedtext` is another command.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# An escaped brace is a character like any other.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[-+]?(?:[0-9]+(?:[.,/][0-9]+)*|[A-Za-z]+)")


def extract_boxed(text: str) -> str | None:
    """Return what stands in the last box of a text, without the braces, spaces around it dropped.

    `\\boxed{...}` and `\\fbox{...}` are boxes, and so is `\\boxed` before a bare number or word, which reference
    solutions have. The last one that is begun counts, whatever was boxed before.

    Args:
        text: what a model wrote, of any length; the time taken is proportional to it.

    Returns:
        None where there is no box, or the last one is empty or is never closed.
    """
    # From front to back and not from the end, so that a megabyte of half-written boxes costs one pass.
    last = None
    for last in _BOX.finditer(text):  # noqa: B007
        pass
    return None if last is None else _content(text, last.end())


def has_boxed(text: str) -> bool:
    """Return whether a text has a well-formed answer: whether its last box is closed and not empty."""
    return extract_boxed(text) is not None


def _content(text: str, start: int) -> str | None:
    if not text.startswith("{", start):
        bare = _BARE.match(text, start)
        return bare[0] if bare else None
    depth = 0
    for found in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return text[start + 1 : found.start()].strip() or None
    return None
