"""Messages of a conversation: what callers may write, and the checked form that renderers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict

from tinsmith.cookbook.renderers.text import check_unicode
from tinsmith.cookbook.renderers.tools import ToolCall, UnparsedToolCall, check_tool_calls
from tinsmith.types.errors import invalid

ROLES = ("system", "user", "assistant", "tool")
# What newer models of OpenAI call the system's role; a format that has no such turn has a system turn.
DEVELOPER = "developer"
# Names under which chat templates look for an answer's thinking.
THOUGHT_FIELDS = ("reasoning_content", "thinking")
# Names under which data say whether a message is learned: OpenAI's, axolotl's two, and ms-swift's.
MASK_FIELDS = ("weight", "train", "training", "loss")
# What other formats say in a message, and no renderer does: rows of data are converted when they are read.
_FOREIGN = ("function_call", "refusal", "reasoning")


class Message(TypedDict, total=False):
    """One message of a conversation, as chat templates read it.

    `content` is a string, or a list of `{"type": "text", "text": ...}` and `{"type": "thinking", "thinking": ...}`.
    The assistant's alone: `reasoning_content`, the thinking before the answer (or `thinking`); `tool_calls`;
    `unparsed_tool_calls`, what a model said in the place of calls; `tokens`, the ids that were sampled for this turn,
    which stand for all the rest when the turn is rendered. A tool's alone: `name` and `tool_call_id`. `trainable` is
    for `TrainOnWhat.CUSTOMIZED`; `weight`, 0 or 1, overrules any other choice (so do `train`, `training` and `loss`).
    """

    role: Required[str]
    content: Required[str | list[dict[str, Any]] | None]
    reasoning_content: str | None
    thinking: str | None
    tool_calls: list[dict[str, Any]] | None
    unparsed_tool_calls: list[UnparsedToolCall]
    tokens: list[int]
    name: str | None
    tool_call_id: str | None
    trainable: bool
    weight: int | None


@dataclass(frozen=True, slots=True)
class CheckedMessage:
    """A message whose fields are known to be well formed.

    Attributes:
        role: one of `ROLES`; a developer speaks as the system.
        text: what is said.
        thinking: what is thought before; None where the message has none.
        tool_calls: in order.
        trainable: the message's own flag; None where it has none.
        tokens: the ids that were sampled for the turn, its end marker included; None where it was not sampled.
        name: of the tool whose result this is; None where the message has none.
        tool_call_id: of the call whose result this is; None where the message has none.
        learned: whether the message's own `weight` says that it is learned; None where it has none.
    """

    role: str
    text: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    trainable: bool | None = None
    tokens: tuple[int, ...] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    learned: bool | None = None


def flagged(message: Mapping[str, Any], trainable: bool) -> dict[str, Any]:
    """Return a message with a flag for `TrainOnWhat.CUSTOMIZED` in the place of its own."""
    kept = {key: value for key, value in message.items() if key not in MASK_FIELDS}
    return {**kept, "trainable": trainable}


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
    if role == DEVELOPER:
        role = "system"
    if role not in ROLES:
        raise invalid(f"{field}.role", role, f"one of {', '.join((*ROLES, DEVELOPER))}")
    # What nearly all messages of nearly all data are; the rest of this takes ten times as long.
    if len(message) == 2 and isinstance(content := message.get("content"), str):
        check_unicode(content, f"{field}.content")
        return CheckedMessage(str(role), content)
    trainable = message.get("trainable")
    if trainable is not None and not isinstance(trainable, bool):
        raise invalid(f"{field}.trainable", trainable, "true or false")
    for key in _FOREIGN:
        if message.get(key):
            raise invalid(f"{field}.{key}", message[key], "none here: data files and conversation_to_datum convert it")
    calls = check_tool_calls(message.get("tool_calls"), f"{field}.tool_calls")
    tokens = _tokens(message, field)
    for key, given in (("tool_calls", calls), ("tokens", tokens), ("unparsed_tool_calls", None)):
        if role != "assistant" and (given or message.get(key)):
            raise invalid(f"{field}.{key}", message[key], f"none in a message of role {role!r}")
    if message.get("unparsed_tool_calls") and tokens is None:
        raise invalid(
            f"{field}.unparsed_tool_calls",
            message["unparsed_tool_calls"],
            "the message's sampled ids in `tokens` beside them: nothing else says how they were spelled",
        )
    text, thinking = _content(message, field)
    check_unicode(text, f"{field}.content")
    check_unicode(thinking or "", f"{field}.reasoning_content")
    return CheckedMessage(
        str(role),
        text,
        thinking,
        calls,
        trainable,
        tokens,
        _optional_text(message, "name", field),
        _optional_text(message, "tool_call_id", field),
        _learned(message, field),
    )


def _learned(message: Mapping[str, Any], field: str) -> bool | None:
    """Return what the message itself says of whether it is learned."""
    found: bool | None = message.get("trainable")
    for key in MASK_FIELDS:
        value = message.get(key)
        if value is None:
            continue
        # OpenAI's weight is a number, the others are flags; neither is a share of a token's loss.
        fits = isinstance(value, int | float) if key != "weight" else type(value) in (int, float)
        if not fits or value not in (0, 1):
            raise invalid(f"{field}.{key}", value, "0 or 1" if key == "weight" else "true or false")
        if found is not None and bool(value) != found:
            raise invalid(f"{field}.{key}", value, "the same as the message's other flags say")
        found = bool(value)
    return found


def _tokens(message: Mapping[str, Any], field: str) -> tuple[int, ...] | None:
    tokens = message.get("tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, list | tuple) or not all(type(t) is int and t >= 0 for t in tokens):
        raise invalid(f"{field}.tokens", tokens, "a list of token ids")
    return tuple(tokens)


def _optional_text(message: Mapping[str, Any], key: str, field: str) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{field}.{key}", value, "a string")
    check_unicode(value or "", f"{field}.{key}")
    return value


def _content(message: Mapping[str, Any], field: str) -> tuple[str, str | None]:
    content = message.get("content")
    reasoning = _reasoning(message, field)
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


def _reasoning(message: Mapping[str, Any], field: str) -> str | None:
    given = {key: _optional_text(message, key, field) for key in THOUGHT_FIELDS}
    named = [key for key, value in given.items() if value is not None]
    if len(named) > 1:
        raise invalid(f"{field}.{named[1]}", given[named[1]], f"none beside {named[0]}, the other name of the same")
    return given[named[0]] if named else None


def get_text_content(message: Mapping[str, Any]) -> str:
    """Return what a message says, without its thinking.

    Raises:
        UserError: the message is not well formed.
    """
    return _check(message, "message").text
