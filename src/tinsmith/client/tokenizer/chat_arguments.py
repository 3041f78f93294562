"""What `apply_chat_template` may be given: one conversation or several, tools, and none of what is not done here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tinsmith.types.errors import invalid

Messages = Sequence[Mapping[str, Any]]

# Arguments of `transformers` that ask for more than text and ids, with the values that ask for nothing.
_NOT_TAKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "padding": ((False, None, "do_not_pad"), "none: ids are returned as lists, each as long as it is"),
    "truncation": ((False, None, "do_not_truncate"), "none: cut the ids yourself"),
    "max_length": ((None,), "none: cut the ids yourself"),
    "return_tensors": ((None,), "none: make tensors of the lists that are returned"),
    "return_assistant_tokens_mask": (
        (False, None),
        "none: a renderer's build_supervised_example gives one weight per token",
    ),
    "tokenizer_kwargs": ((None,), "none: nothing else can be said to this tokenizer"),
}


def check_options(variables: dict[str, Any]) -> None:
    """Take the arguments out that ask for nothing.

    Raises:
        UserError: one asks for what is not done here.
    """
    for name, (idle, expected) in _NOT_TAKEN.items():
        value = variables.pop(name, None)
        if not any(value is one or value == one for one in idle) and value != {}:
            raise invalid(name, value, expected)


def conversations_of(conversation: Any) -> tuple[list[Messages], bool]:
    """Return conversations, and whether there were several.

    Raises:
        UserError: it is no list of messages, nor a list of such lists; or one is empty.
    """
    expected = "a list of messages, each an object with role and content, or a list of such lists"
    if isinstance(conversation, str | bytes | Mapping) or not isinstance(conversation, Sequence):
        raise invalid("conversation", cast("Any", conversation), expected)
    entries = cast("Sequence[Any]", conversation)
    if not entries:
        raise invalid("conversation", entries, "at least one message")
    several = isinstance(entries[0], list | tuple)
    chats: list[Any] = list(entries) if several else [entries]
    for number, chat in enumerate(chats):
        field = f"conversation[{number}]" if several else "conversation"
        if not isinstance(chat, list | tuple) and (several or not isinstance(chat, Sequence)):
            raise invalid(field, chat, "a list of messages, as the first one is")
        if not chat:
            raise invalid(field, cast("Any", chat), "at least one message")
        for index, message in enumerate(cast("Sequence[Any]", chat)):
            if not isinstance(message, Mapping):
                raise invalid(f"{field}[{index}]", message, "a message, an object with role and content")
    return chats, several


def tool_schemas(tools: Any) -> list[Any] | None:
    """Return tools as templates read them.

    Raises:
        UserError: one is no JSON schema.
    """
    if tools is None:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise invalid("tools", cast("Any", tools), "a list of JSON schemas")
    schemas = list(cast("Sequence[Any]", tools))
    for index, tool in enumerate(schemas):
        if not isinstance(tool, Mapping):
            expected = "a JSON schema; of a function, transformers.utils.get_json_schema makes one"
            raise invalid(f"tools[{index}]", tool, expected)
    return schemas
