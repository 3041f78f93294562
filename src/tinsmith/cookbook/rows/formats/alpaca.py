"""Alpaca: `instruction`, `input` and `output`, with LLaMA-Factory's `system` and `history`; Dolly's names, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.rows.formats.json_text import read_json
from tinsmith.types.errors import invalid

NAME = "Alpaca"
# Dolly calls the input a context, and the output a response.
INPUTS = ("input", "context")
OUTPUTS = ("output", "response")
KEYS = ("instruction", *INPUTS, *OUTPUTS, "history")


def question(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what an Alpaca row asks, as messages: its history, then instruction and input, a line each.

    Raises:
        UserError: a field is no text, nothing is asked, or the history is no list of pairs.
    """
    parts = [_text(row, key) for key in ("instruction", *_given(row, INPUTS))]
    asked = "\n".join(part for part in parts if part.strip())
    if not asked:
        raise invalid("instruction", row.get("instruction"), "a text that is not empty")
    return [*_history(row.get("history")), {"role": "user", "content": asked}]


def conversation(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an Alpaca row as messages.

    Raises:
        UserError: as `question`, or it has no output, or two.
    """
    outputs = _given(row, OUTPUTS)
    if len(outputs) != 1:
        raise invalid("row", sorted(map(str, row)), 'an "output" beside "instruction"')
    answer = _text(row, outputs[0])
    if not answer.strip():
        raise invalid(outputs[0], answer, "a text that is not empty")
    return [*question(row), {"role": "assistant", "content": answer}]


def _given(row: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if row.get(name) is not None]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise invalid(key, value, "a text")
    return value or ""


def _history(history: Any) -> list[dict[str, Any]]:
    expected = "a list of pairs, what was asked and what was answered"
    turns = read_json(history or [], "history", expected)
    if not isinstance(turns, list):
        raise invalid("history", turns, expected)
    found: list[dict[str, Any]] = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) and text for text in turn):
            raise invalid(f"history[{index}]", turn, "a pair of texts, what was asked and what was answered")
        found += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return found
