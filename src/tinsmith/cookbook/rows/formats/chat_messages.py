"""Messages as people have them, OpenAI's older and newer ones and those of axolotl, as a renderer reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.renderers.messages import MASK_FIELDS
from tinsmith.cookbook.rows.formats.json_text import read_json
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

_PLAIN = frozenset({"role", "content"})
_TAKEN = _PLAIN | {
    *("reasoning_content", "thinking", "tool_calls", "unparsed_tool_calls", "tokens"),
    *("name", "tool_call_id", "trainable", *MASK_FIELDS),
}
# What says something that is learned, or is not, and no renderer can say: refused, with what to do instead.
_REFUSED = {
    "audio": "none: sounds cannot be learned",
    "images": "none: pictures cannot be learned",
    "image": "none: pictures cannot be learned",
    "video": "none: pictures cannot be learned",
    "videos": "none: pictures cannot be learned",
    "training_detail": "none: a message is learned as a whole or not at all; `segments` say parts of a text",
    "train_detail": "none: a message is learned as a whole or not at all; `segments` say parts of a text",
    "reasoning_details": "none: the thinking itself as reasoning_content",
    "channel": "none: thinking as reasoning_content, calls as tool_calls",
    "recipient": "none: calls as tool_calls",
    "prefix": "none: a beginning that is given and an end that is learned are `segments`",
    "tools": "none in a message: the tools of a conversation stand beside its messages",
    "functions": "none in a message: the tools of a conversation stand beside its messages",
    "text": "the text as content",
    "value": "the text as content",
    "parts": "the text as content",
}
# Names of masks of which nobody can tell whether 1 says "learn" or "hide". A word under such a name is none.
_MASKS = ("mask", "masked", "masks", "loss_mask", "loss_scale", "label")
# Masks of a part of a message: a message is learned as a whole.
_PART_MASKS = (*MASK_FIELDS, "trainable", "mask", "loss_mask")


def own_messages(messages: Any, field: str, notes: RowNotes) -> Any:
    """Return messages as renderers read them; what is no list of objects is returned as it is, for the check.

    Args:
        messages: of a row.
        field: that holds them, for errors.
        notes: takes the keys that nothing is done with.

    Raises:
        UserError: a message says something that cannot be honoured; names the message and the key.
    """
    if not isinstance(messages, list):
        return messages
    # Most data hold nothing else, and are returned as they are.
    if all(map(_is_plain, messages)):
        return messages
    return [_own(m, f"{field}[{i}]", notes) if isinstance(m, Mapping) else m for i, m in enumerate(messages)]


def _is_plain(message: Any) -> bool:
    # `type`, not `isinstance`: it is asked of every message of a file.
    return (
        type(message) is dict
        and message.keys() == _PLAIN
        and type(message["content"]) is str
        and message["role"] != "function"
    )


def _own(message: Mapping[str, Any], field: str, notes: RowNotes) -> dict[str, Any]:
    said = {key: value for key, value in message.items() if value is not None or key == "content"}
    _check_keys(said, field, notes)
    if said.get("role") == "function":
        said["role"] = "tool"
    _move(said, "reasoning", "reasoning_content", field)
    # A refusal is what the assistant says in the place of an answer, in a field of its own.
    _move(said, "refusal", "content", field)
    content = said.get("content")
    if isinstance(content, list):
        said["content"] = [_part(part, f"{field}.content[{i}]") for i, part in enumerate(content)]
    if call := said.pop("function_call", None):
        if said.get("tool_calls"):
            raise invalid(f"{field}.function_call", call, "none beside tool_calls, the newer name of the same")
        said["tool_calls"] = [{"type": "function", "function": call}]
    calls = said.get("tool_calls")
    if isinstance(calls, list):
        said["tool_calls"] = [_call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return said


def _check_keys(said: dict[str, Any], field: str, notes: RowNotes) -> None:
    for key in [key for key in said if key not in _TAKEN]:
        value = said[key]
        if key in ("function_call", "refusal", "reasoning"):
            continue
        if key in _MASKS and not isinstance(value, str):
            raise invalid(f"{field}.{key}", value, "none: say weight, 1 to learn the message and 0 not to")
        # Exporters write a field without anything in it where there is nothing to say.
        if key in _REFUSED and value:
            raise invalid(f"{field}.{key}", value, _REFUSED[key])
        notes.unused(f"message.{key}")
        del said[key]
    # A tool's name is part of its result. Formats have no place for the names of others.
    if said.get("name") and said.get("role") not in ("tool", "function"):
        raise invalid(
            f"{field}.name", said["name"], f"none in a message of role {said.get('role')!r}; write it in the content"
        )


def _move(said: dict[str, Any], key: str, to: str, field: str) -> None:
    """Move what one key says to the key that renderers read."""
    value = said.pop(key, None)
    if not value:
        return
    if said.get(to):
        raise invalid(f"{field}.{key}", value, f"none beside {to}")
    if not isinstance(value, str):
        raise invalid(f"{field}.{key}", value, "a text")
    said[to] = value


def _part(part: Any, field: str) -> Any:
    """Return a part of a content: texts of all names as texts; anything else as it is, for the check."""
    if not isinstance(part, Mapping):
        return part
    for key in _PART_MASKS:
        if part.get(key) is not None:
            raise invalid(f"{field}.{key}", part[key], "none: a message is learned as a whole or not at all")
    kind = part.get("type")
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return {**part, "type": "text"} if kind in ("input_text", "output_text") else part


def _call(call: Any, field: str) -> Any:
    """Return a call whose arguments are an object, as templates want them; what is none is left to the check."""
    if not isinstance(call, Mapping):
        return call
    # As Hermes and the templates of many models have it: without the object around.
    if "function" not in call and "name" in call:
        rest = {key: value for key, value in call.items() if key not in ("name", "arguments")}
        call = {**rest, "function": {"name": call["name"], "arguments": call.get("arguments")}}
    function = call.get("function")
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    # A function without parameters is called with nothing at all, or with an empty text.
    if arguments is None or arguments == "":
        arguments = {}
    arguments = read_json(arguments, f"{field}.function.arguments", "an object")
    if not isinstance(arguments, Mapping):
        raise invalid(f"{field}.function.arguments", function["arguments"], "an object, or the JSON text of one")
    return {**call, "function": {**function, "arguments": arguments}}
