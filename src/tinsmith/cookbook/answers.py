"""What is compared of two answers, and how often they are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def spoken(message: Mapping[str, Any]) -> str:
    """Return what is compared of an answer: its text and its tool calls, not its thinking, as one text."""
    parts = [_text(message.get("content")).strip()]
    # Calls are compared as values: one format writes arguments as a JSON text, another as an object, in any order of
    # keys, and the id of a call is made up.
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        parts.append(json.dumps([function["name"], arguments], sort_keys=True, ensure_ascii=False))
    return "\n".join(part for part in parts if part)


def _text(content: object) -> str:
    """Return the text of a content: a string, or parts of which those of type text count."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if part.get("type") == "text")
    return str(content or "")


def accuracy(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Return the share of answers that equal what is expected."""
    # Exact match: no credit for what is nearly right.
    return sum(given == right for given, right in zip(answers, expected, strict=True)) / len(expected)
