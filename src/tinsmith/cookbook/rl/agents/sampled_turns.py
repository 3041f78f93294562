"""What was sampled in an episode, found again in the conversations that an agent sends back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.rl.agents.chat_objects import ChatCompletionMessage, ChatCompletionToolCall, FunctionCall
from tinsmith.types.errors import invalid

# A message without what an agent may change and still say the same: role, text, calls, thinking. A text may be given
# in parts, or be missing where it is empty; arguments may be an object or its JSON text.
_Said = tuple[str, str, str, str]


class Restored(NamedTuple):
    """A conversation as renderers take it, and what it says in the agent's form."""

    messages: list[Mapping[str, Any]]
    said: list[_Said]


@dataclass(frozen=True)
class _Turn:
    before: list[_Said]
    said: _Said
    message: Message


class SampledTurns:
    """The turns that were sampled in an episode, and their form in a chat API.

    An agent sends whole conversations: messages that it was given, copies of them, or others of its own making. Where
    one says what was sampled, the sampled turn takes its place, with its ids: text that is encoded anew may have
    others, and what is trained would not be what was said.
    """

    def __init__(self) -> None:
        self._turns: list[_Turn] = []

    def add(self, conversation: Restored, message: Message) -> ChatCompletionMessage:
        """Keep a turn, and return it as an agent is to see it.

        Args:
            conversation: that it answers.
            message: as it was parsed, with its ids.
        """
        shown = _shown(message, len(self._turns))
        kept: Message = {**message}
        if shown.tool_calls:
            # The names that results will refer to.
            calls = zip(message.get("tool_calls") or (), shown.tool_calls, strict=True)
            kept["tool_calls"] = [{**call, "id": named.id} for call, named in calls]
        self._turns.append(_Turn(conversation.said, _said(shown.model_dump()), kept))
        return shown

    def restore(self, messages: Any) -> Restored:
        """Return a conversation with what was sampled in it as it was sampled.

        Args:
            messages: objects `{"role": ..., "content": ...}`, or of classes with `model_dump`, those of the API's
                answers among them.

        Raises:
            UserError: it is no list of these.
        """
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
            raise invalid("messages", messages, "a list of messages")
        given = [_plain(message, f"messages[{place}]") for place, message in enumerate(messages)]
        said = [_said(message) for message in given]
        found = [
            self._find(said[:place], said[place]) if message.get("role") == "assistant" else None
            for place, message in enumerate(given)
        ]
        return Restored([sampled or own for sampled, own in zip(found, given, strict=True)], said)

    def _find(self, before: list[_Said], said: _Said) -> Message | None:
        # Many agents drop the thinking; who gives another has changed the turn.
        same = [turn for turn in self._turns if turn.said[:3] == said[:3] and said[3] in ("", turn.said[3])]
        # Two turns may say the same in other ids: the one that was said here, else the last.
        here = [turn for turn in same if turn.before == before]
        return (here or same)[-1].message if same else None


def _shown(message: Message, turn: int) -> ChatCompletionMessage:
    calls = [
        ChatCompletionToolCall(
            id=call.get("id") or f"call_{turn}_{place}",
            function=FunctionCall(
                name=call["function"]["name"],
                arguments=json.dumps(call["function"]["arguments"], ensure_ascii=False),
            ),
        )
        for place, call in enumerate(message.get("tool_calls") or ())
    ]
    # As other servers do: what was meant as a call and is none is text.
    text = "".join(
        [str(message["content"]), *(unparsed["text"] for unparsed in message.get("unparsed_tool_calls") or ())]
    )
    return ChatCompletionMessage(
        content=text if text or not calls else None,
        tool_calls=calls or None,
        reasoning_content=message.get("reasoning_content"),
    )


def _plain(message: Any, field: str) -> Mapping[str, Any]:
    dump = getattr(message, "model_dump", None)
    plain = dump(exclude_none=True) if dump else message
    if not isinstance(plain, Mapping):
        raise invalid(field, message, 'an object {"role": ..., "content": ...}, or a message of a completion')
    # Dumps of completions leave it out where it is None; renderers want to see it.
    return plain if "content" in plain else {**plain, "content": None}


def _said(message: Mapping[str, Any]) -> _Said:
    # Whatever an agent made of a message: what is wrong with it, the renderer says.
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in content)
    calls = message.get("tool_calls") or ()
    told = [_call(call) for call in calls] if isinstance(calls, Sequence) else calls
    thought = str(message.get("reasoning_content") or "")
    return str(message.get("role")), str(content), json.dumps(told, sort_keys=True, default=str), thought


def _call(call: Any) -> Any:
    try:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        return [name, json.loads(arguments) if isinstance(arguments, str) else arguments]
    except (KeyError, TypeError, ValueError):
        return call
