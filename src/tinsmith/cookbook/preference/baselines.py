"""What one gets on comparisons without looking at what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.preference.comparison import Messages, read_comparison


def length_accuracy(rows: Sequence[Any]) -> float:
    """Return the share of comparisons whose chosen answer is the longer one, in characters; a tie counts one half."""
    total = 0.0
    for row in rows:
        comparison = read_comparison(row)
        chosen, rejected = answer_length(comparison.chosen), answer_length(comparison.rejected)
        total += 0.5 if chosen == rejected else float(chosen > rejected)
    return total / len(rows)


def answer_length(answer: Messages) -> int:
    """Return the characters that the assistant says in an answer."""
    said: list[Mapping[str, Any]] = [message for message in answer if message["role"] == "assistant"]
    return sum(len(spoken(message)) for message in said)
