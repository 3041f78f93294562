"""Shapes of preference data as they are published, and how each becomes TRL's `{"prompt", "chosen", "rejected"}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinsmith.types.errors import invalid

EXPECTED = '"chosen" and "rejected" (and "prompt"), or the columns of HelpSteer3 or UltraFeedback'
# Anthropic's texts: every turn begins on a new line behind an empty one.
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def to_trl(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with `chosen` and `rejected`, and `prompt` where it is not implicit.

    Raises:
        UserError: it has the columns of no known shape, or says that neither answer was preferred.
    """
    if "response1" in row and "response2" in row:
        return _helpsteer3(row)
    if "chosen_response" in row and "rejected_response" in row:
        return _ultrafeedback(row)
    if "chosen" not in row or "rejected" not in row:
        raise invalid("row", sorted(map(str, row)), EXPECTED)
    if _is_hhh(row):
        return {"chosen": _turns(row["chosen"], "chosen"), "rejected": _turns(row["rejected"], "rejected")}
    return row


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
