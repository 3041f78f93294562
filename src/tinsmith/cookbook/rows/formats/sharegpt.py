"""ShareGPT: `conversations` of turns with `from` and `value`, as FastChat, axolotl and LLaMA-Factory read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.rows.formats.json_text import read_json
from tinsmith.types.errors import invalid

NAME = "ShareGPT"
# Who speaks. A name that is none of these goes through if it is a role.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "developer",
    "observation": "tool",
    "tool": "tool",
    "ipython": "tool",
    "function": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}


def turns_to_messages(turns: Any, field: str) -> Any:
    """Return the messages of ShareGPT's turns; a turn that has a role already is returned as it is.

    Args:
        turns: `[{"from": "human", "value": "..."}, ...]`, perhaps with `weight` or other keys.
        field: that holds them, for errors.

    Raises:
        UserError: they are no list of turns, nobody knows who speaks, or a call is none.
    """
    turns = read_json(turns, field, "a list of turns")
    if not isinstance(turns, list) or not turns:
        raise invalid(field, turns, 'a list of turns, {"from": ..., "value": ...}')
    return [_message(turn, f"{field}[{index}]") for index, turn in enumerate(turns)]


def is_turn(value: Any) -> bool:
    """Return whether a value looks like a turn of ShareGPT."""
    return isinstance(value, Mapping) and "from" in value and "value" in value


def _message(turn: Any, field: str) -> Any:
    if not isinstance(turn, Mapping):
        raise invalid(field, turn, 'a turn, {"from": ..., "value": ...}')
    if "from" not in turn:
        if "role" not in turn:
            raise invalid(field, sorted(map(str, turn)), 'a turn, {"from": ..., "value": ...}')
        return turn
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker.lower() not in _ROLES:
        raise invalid(f"{field}.from", speaker, f"one of {', '.join(_ROLES)}")
    if "value" not in turn:
        raise invalid(field, sorted(map(str, turn)), 'a "value" beside "from"')
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    message = {"role": _ROLES[speaker.lower()], "content": turn["value"], **rest}
    if speaker == "function_call":
        message |= {"content": "", "tool_calls": _calls(turn["value"], f"{field}.value")}
    return message


def _calls(value: Any, field: str) -> list[Any]:
    expected = 'a call, {"name": ..., "arguments": ...}, or a list of calls'
    found = read_json(value, field, expected)
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise invalid(field, value, expected)
    return [{"type": "function", "function": dict(call)} for call in calls]
