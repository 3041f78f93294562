"""Messages of a conversation: what callers may write, and the checked form that renderers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict

from tinsmith.types.errors import invalid

ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict, total=False):
    """One message of a conversation, as chat templates read it.

    `content` is a string, or a list of `{"type": "text", "text": ...}` and `{"type": "thinking", "thinking": ...}`;
    `reasoning_content` is the thinking before the answer; `trainable` is for `TrainOnWhat.CUSTOMIZED` alone.
    """

    role: Required[str]
    content: Required[str | list[dict[str, Any]]]
    reasoning_content: str | None
    tool_calls: list[dict[str, Any]] | None
    trainable: bool


@dataclass(frozen=True, slots=True)
class CheckedMessage:
    """A message whose fields are known to be well formed.

    Attributes:
        role: one of `ROLES`.
        text: what is said.
        thinking: what is thought before; None where the message has none.
        tool_calls: calls as given.
        trainable: the message's own flag; None where it has none.
    """

    role: str
    text: str
    thinking: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    trainable: bool | None = None


def check_messages(messages: Sequence[Mapping[str, Any]], field: str = "messages") -> list[CheckedMessage]:
    """Check a conversation.

    Raises:
        UserError: no list of messages, an unknown role or content of another kind; the message names the place.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise invalid(field, messages, "a list of messages")
    if not messages:
        raise invalid(field, [], "at least one message")
    return [_check(message, f"{field}[{index}]") for index, message in enumerate(messages)]


def _check(message: Mapping[str, Any], field: str) -> CheckedMessage:
    if not isinstance(message, Mapping):
        raise invalid(field, message, 'an object {"role": ..., "content": ...}')
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"{field}.role", role, f"one of {', '.join(ROLES)}")
    text, thinking = _content(message, field)
    trainable = message.get("trainable")
    if trainable is not None and not isinstance(trainable, bool):
        raise invalid(f"{field}.trainable", trainable, "true or false")
    return CheckedMessage(str(role), text, thinking, _tool_calls(message, field), trainable)


def _tool_calls(message: Mapping[str, Any], field: str) -> tuple[Mapping[str, Any], ...]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise invalid(f"{field}.tool_calls", calls, "a list of calls, each an object")
    return tuple(calls)


def _content(message: Mapping[str, Any], field: str) -> tuple[str, str | None]:
    content = message.get("content")
    reasoning = message.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise invalid(f"{field}.reasoning_content", reasoning, "a string")
    if isinstance(content, str):
        return content, reasoning
    if content is None and message.get("tool_calls"):
        return "", reasoning
    if not isinstance(content, Sequence):
        raise invalid(f"{field}.content", content, "a string, or a list of text and thinking parts")
    texts: list[str] = []
    thoughts: list[str] = [] if reasoning is None else [reasoning]
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = part.get(kind) if kind in ("text", "thinking") else None
        if not isinstance(value, str):
            raise invalid(f"{field}.content[{index}]", part, 'a part {"type": "text" or "thinking", ...} of text')
        (texts if kind == "text" else thoughts).append(value)
    return "".join(texts), "".join(thoughts) if thoughts else None
