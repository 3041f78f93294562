"""Shapes of preference data as they are published, and how each becomes TRL's `{"prompt", "chosen", "rejected"}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.rows.formats import alpaca, sharegpt
from tinsmith.cookbook.rows.formats.chat_messages import own_messages
from tinsmith.cookbook.rows.formats.own_form import SYSTEMS, add_system
from tinsmith.cookbook.rows.formats.row_keys import settle_keys
from tinsmith.cookbook.rows.formats.tool_lists import own_tools
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

EXPECTED = '"chosen" and "rejected" (and "prompt"), or the columns of HelpSteer3, UltraFeedback or OpenAI'
# Anthropic's texts: every turn begins on a new line behind an empty one.
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def to_trl(row: Mapping[str, Any], notes: RowNotes) -> dict[str, Any]:
    """Return a row with `chosen` and `rejected`, with `prompt` where it is not implicit, and with `tools`.

    Args:
        row: of any known shape.
        notes: takes the format it came in, and the keys that nothing is done with.

    Raises:
        UserError: it has the columns of no known shape or a key that cannot be honoured, or it says that neither answer
            was preferred.
    """
    found, used = _shaped(row, notes)
    for key in ("prompt", "chosen", "rejected"):
        if key in found:
            found[key] = _messages(found[key], key, notes)
    found = _with_system(row, found, notes)
    tools = own_tools(found)
    taken = {*used, *found, "tools", "functions", *SYSTEMS}
    _check_repeated(row, found, taken)
    settle_keys(row, taken, notes)
    return {key: value for key, value in found.items() if key not in ("tools", "functions")} | {"tools": tools}


def _shaped(row: Mapping[str, Any], notes: RowNotes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of a row under TRL's names, and which of its own they were taken from."""
    tools = {key: row[key] for key in ("tools", "functions") if row.get(key)}
    if "response1" in row and "response2" in row:
        return _helpsteer3(row) | tools, ("response1", "response2", "context", "overall_preference")
    if "chosen_response" in row and "rejected_response" in row:
        return _ultrafeedback(row) | tools, ("instruction", "chosen_response", "rejected_response")
    if "preferred_output" in row and "non_preferred_output" in row:
        notes.converted("OpenAI's preferences")
        return _openai(row) | tools, ("input", "preferred_output", "non_preferred_output")
    if "chosen" not in row or "rejected" not in row:
        raise invalid("row", sorted(map(str, row)), EXPECTED)
    answers = {"chosen": row["chosen"], "rejected": row["rejected"]}
    if row.get("prompt") is not None:
        return {"prompt": row["prompt"], **answers} | tools, ("prompt",)
    if row.get("conversations") is not None:
        notes.converted(sharegpt.NAME)
        return {"prompt": sharegpt.turns_to_messages(row["conversations"], "conversations"), **answers} | tools, (
            "conversations",
        )
    if row.get("instruction") is not None:
        notes.converted(alpaca.NAME)
        asked = {key: value for key, value in row.items() if key not in alpaca.OUTPUTS}
        return {"prompt": alpaca.question(asked), **answers} | tools, ("instruction", *alpaca.INPUTS, "history")
    if _is_hhh(row):
        return {name: _turns(text, name) for name, text in answers.items()} | tools, ()
    return answers | tools, ()


def _messages(value: Any, field: str, notes: RowNotes) -> Any:
    """Return messages as renderers read them; a text as it is."""
    # One message, as LLaMA-Factory has an answer, is a list of one.
    value = [value] if isinstance(value, Mapping) else value
    if isinstance(value, list) and any(map(sharegpt.is_turn, value)):
        value = sharegpt.turns_to_messages(value, field)
    return own_messages(value, field, notes)


def _with_system(row: Mapping[str, Any], found: dict[str, Any], notes: RowNotes) -> dict[str, Any]:
    """Put a system text of a row before its prompt, or before both conversations where the prompt is implicit.

    Raises:
        UserError: there is no conversation that it could stand before.
    """
    given = next((key for key in SYSTEMS if row.get(key)), None)
    if given is None:
        return found
    if found.get("prompt") is not None:
        asked = found["prompt"]
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) and asked.strip() else asked
        return {**found, "prompt": add_system(row, asked, notes)}
    if isinstance(found["chosen"], str):
        raise invalid(given, row[given], "none beside texts without a prompt")
    return {**found, **{key: add_system(row, found[key], notes) for key in ("chosen", "rejected")}}


def _check_repeated(row: Mapping[str, Any], found: Mapping[str, Any], taken: set[str]) -> None:
    """Check that what stands beside a comparison says nothing more, as the whole conversation does in UltraFeedback."""
    for key in ("messages", "completion", "output", "response"):
        value = row.get(key)
        if value and key not in taken and value not in (row.get("chosen"), found["chosen"]):
            raise invalid(key, value, "none beside chosen and rejected, or the same as chosen")


def _openai(row: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's preference fine-tuning: `input` with messages and tools, and two lists of messages."""
    asked = row.get("input")
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise invalid("input", asked, 'an object with "messages", and perhaps "tools"')
    tools = {key: asked[key] for key in ("tools", "functions") if asked.get(key)}
    answers = {"chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
    return {"prompt": asked["messages"], **answers, **tools}


def _helpsteer3(row: Mapping[str, Any]) -> dict[str, Any]:
    """`nvidia/HelpSteer3`, preference: `overall_preference` from -3 (response 1 is far better) to 3 (response 2)."""
    preference = row.get("overall_preference")
    if isinstance(preference, bool) or not isinstance(preference, int | float) or not -3 <= preference <= 3:
        raise invalid("overall_preference", preference, "a number from -3 (response1) to 3 (response2)")
    if preference == 0:
        raise invalid("overall_preference", preference, "a preference; 0 says that neither response is better")
    better, worse = ("response1", "response2") if preference < 0 else ("response2", "response1")
    context = row.get("context")
    return {"prompt": context if context is not None else "", "chosen": row[better], "rejected": row[worse]}


def _ultrafeedback(row: Mapping[str, Any]) -> dict[str, Any]:
    """`argilla/ultrafeedback-binarized-preferences`: an instruction and two responses."""
    return {
        "prompt": row.get("instruction", ""),
        "chosen": row["chosen_response"],
        "rejected": row["rejected_response"],
    }


def _is_hhh(row: Mapping[str, Any]) -> bool:
    texts = [row["chosen"], row["rejected"]]
    return row.get("prompt") is None and all(isinstance(text, str) and _TURN.match(text) for text in texts)


def _turns(text: str, field: str) -> list[dict[str, Any]]:
    """Return the conversation of one of `Anthropic/hh-rlhf`'s texts.

    Raises:
        UserError: it does not end with a turn of the assistant.
    """
    # ["", role, said, role, said, ...]: the pattern's group is kept by the split.
    parts = _TURN.split(text)[1:]
    turns = [
        {"role": _ROLES[role], "content": said.strip()} for role, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant":
        raise invalid(field, text[-40:], 'a text whose last turn begins with "Assistant:"')
    if not turns[-1]["content"]:
        raise invalid(field, text[-40:], "a last turn that is not empty")
    return turns
