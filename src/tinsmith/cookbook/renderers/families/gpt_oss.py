"""The format of gpt-oss ("harmony"): messages in channels, thinking in one, calls in one, answers in one."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.families.typescript import show_tools
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolSpec, UnparsedToolCall, read_arguments, to_json
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid

_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
_EFFORTS = ("low", "medium", "high")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")


class GptOssRenderer(PieceRenderer):
    """`gpt_oss_medium_reasoning` and its like: `<|start|>WHO<|channel|>WHICH<|message|>text`, and how it ended.

    An answer that ends the conversation ends with `<|return|>`, earlier ones with `<|end|>`, a call with `<|call|>`.
    Thinking is kept in the last answer and in calls that no answer has followed yet; so is, other than in the
    template, that of the calls right before the last answer, which is sampled with them in view.

    Args:
        tokenizer: of the model.
        name: in the registry.
        reasoning: `low`, `medium` or `high`, said in the system message; None: no system message.
        date: said in the system message; None: today's, when the text is rendered. Give one for examples that are the
            same tomorrow.
    """

    controls = ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>")
    tool_markers = ("<|call|>",)
    has_tools = True
    has_extension_property = False

    def __init__(
        self,
        tokenizer: Any,
        name: str = "gpt_oss_medium_reasoning",
        *,
        reasoning: str | None = "medium",
        date: str | None = None,
    ) -> None:
        if reasoning is not None and reasoning not in _EFFORTS:
            raise invalid("reasoning", reasoning, f"one of {', '.join(_EFFORTS)}, or None for no system message")
        super().__init__(tokenizer, name)
        self._reasoning = reasoning
        self._date = date

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        for index, tool in enumerate(tools or ()):
            if tool["function"].get("description") is None:
                raise invalid(
                    f"tools[{index}].function.description", None, f"one: the format of {self.name!r} shows it"
                )
        called = False
        for index, message in enumerate(checked):
            field = f"messages[{index}]"
            if message.role == "system" and index:
                raise invalid(f"{field}.role", "system", "a system message at the beginning alone")
            if message.role == "tool" and not called and message.name is None:
                raise invalid(f"{field}.role", "tool", "a call before its result, or the `name` of the tool")
            if len(message.tool_calls) > 1:
                names = [call.name for call in message.tool_calls]
                raise invalid(f"{field}.tool_calls", names, "one call in a message: the format has no place for more")
            if message.tool_calls and message.text and message.thinking and message.tokens is None:
                raise invalid(f"{field}.content", message.text, "none beside a call and its thinking")
            if message.role == "assistant":
                called = bool(message.tool_calls)
        return checked

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return messages[index].role == "assistant"

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        turns = [] if self._reasoning is None else [Turn(None, [Piece(self._system(bool(tools)))])]
        first = int(messages[0].role == "system")
        instructions = messages[0].text if first else ""
        if instructions or tools:
            turns.append(Turn(0 if first else None, self._developer(instructions, tools)))
        # An answer that ends an example has seen the thinking of the calls before it when it is sampled.
        past = messages if generating else messages[:-1]
        called = ""
        for index in range(first, len(messages)):
            message = messages[index]
            if message.role == "assistant":
                last = index == len(messages) - 1 and not generating
                answered = any(m.role == "assistant" and not m.tool_calls for m in past[index + 1 :])
                pieces = self._answer(message, thinks=not answered if message.tool_calls else last, last=last)
                called = message.tool_calls[0].name if message.tool_calls else ""
            else:
                data = message.role == "tool"
                name = Piece(called or message.name or "", data=True)
                head = [Piece("functions."), name, Piece(" to=assistant<|channel|>commentary")]
                text = to_json(message.text) if data else message.text
                pieces = [Piece("<|start|>"), *(head if data else [Piece("user")]), Piece("<|message|>")]
                pieces += [Piece(text, data=True, spoken=True), Piece("<|end|>", spoken=True)]
            turns.append(Turn(index, pieces))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("<|start|>assistant")]

    def read_answer(self, tokens: list[int]) -> Message:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        unparsed: list[UnparsedToolCall] = []
        for segment in self._segments(tokens):
            head, body = self._parts(segment)
            recipient = _RECIPIENT.search(head)
            if recipient is not None:
                call = (
                    "the call was cut off" if body is None else read_arguments(recipient[1], self.encoder.decode(body))
                )
                if isinstance(call, str):
                    unparsed.append({"text": self.encoder.decode(segment), "reason": call})
                else:
                    calls.append(call)
            elif body is not None:
                into = thoughts if self._channel(head) == "analysis" else texts
                into.append(self.encoder.decode(body))
            elif "<|channel|>" not in head:
                texts.append(head)  # a model that does not know the format
        message: Message = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        if unparsed:
            message["unparsed_tool_calls"] = unparsed
        return message

    def _system(self, tools: bool) -> str:
        date = self._date or time.strftime("%Y-%m-%d")
        channels = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
        calls = "\nCalls to these tools must go to the commentary channel: 'functions'." if tools else ""
        return (
            f"<|start|>system<|message|>{_IDENTITY}\nKnowledge cutoff: 2024-06\nCurrent date: {date}\n\n"
            f"Reasoning: {self._reasoning}\n\n{channels}{calls}<|end|>"
        )

    def _developer(self, instructions: str, tools: Sequence[ToolSpec]) -> list[Piece]:
        pieces = [Piece("<|start|>developer<|message|>")]
        if instructions:
            text = Piece(instructions, data=True, spoken=True)
            pieces += [Piece("# Instructions\n\n"), text, Piece("\n\n", spoken=True)]
        if tools:
            pieces += [Piece("# Tools\n\n"), Piece(show_tools(tools), data=True)]
        return [*pieces, Piece("<|end|>", spoken=bool(instructions))]

    def _answer(self, message: CheckedMessage, *, thinks: bool, last: bool) -> list[Piece]:
        """Return the pieces of an assistant's turn: thinking if it is shown, then the call or the answer."""
        if message.tokens is not None:
            return self._sampled_answer(message.tokens, thinks=thinks, last=last)
        thought = message.thinking
        if message.tool_calls:
            thought = message.thinking or message.text or None
        pieces = [Piece("<|start|>assistant")]
        if thinks and thought is not None:
            pieces += [
                Piece("<|channel|>analysis<|message|>", spoken=True),
                Piece(thought, data=True, spoken=True),
                Piece("<|end|><|start|>assistant", spoken=True),
            ]
        if not message.tool_calls:
            text = Piece(message.text, data=True, spoken=True)
            end = Piece("<|return|>" if last else "<|end|>", spoken=True)
            return [*pieces, Piece("<|channel|>final<|message|>", spoken=True), text, end]
        (call,) = message.tool_calls
        return [
            *pieces,
            Piece(" to=functions.", spoken=True, seam=True),
            Piece(call.name, data=True, spoken=True),
            Piece("<|channel|>commentary json<|message|>", spoken=True),
            Piece(to_json(call.arguments), data=True, spoken=True),
            Piece("<|call|>", spoken=True),
        ]

    def _sampled_answer(self, tokens: Sequence[int], *, thinks: bool, last: bool) -> list[Piece]:
        """Return a sampled turn as it stands later: perhaps without thinking, and with the end that a past turn has."""
        header = Piece("<|start|>assistant")
        if not thinks:
            segments = [self._without_role(segment) for segment in self._segments(tokens)]
            kept = [s for s in segments if self._channel(self._parts(s)[0]) != "analysis"]
            if not kept:
                return [header, Piece("<|channel|>final<|message|><|end|>")]
            tokens = kept[0]
            for segment in kept[1:]:
                tokens = [*tokens, *self.encoder.encode([header]), *segment]
        if not last and tokens[-1:] == [self.ids["<|return|>"]]:
            tokens = [*tokens[:-1], self.ids["<|end|>"]]
        ended = bool(tokens) and tokens[-1] in (*self.ends, self.ids["<|end|>"])
        said = Piece("", spoken=True, ids=tuple(tokens))
        return [header, said] if ended else [header, said, Piece("<|end|>")]

    def _segments(self, tokens: Sequence[int]) -> list[list[int]]:
        """Return the messages of a turn; a turn is sampled behind the header of its first one."""
        segments: list[list[int]] = [[]]
        for token in tokens:
            if token == self.ids["<|start|>"]:
                segments.append([])
            else:
                segments[-1].append(token)
        return segments

    def _without_role(self, segment: list[int]) -> list[int]:
        role = self.encoder.encode([Piece("assistant")])
        return segment[len(role) :] if segment[: len(role)] == role else segment

    def _parts(self, segment: list[int]) -> tuple[str, list[int] | None]:
        """Return what a message's header spells, and its body without its end; None where the header has no end."""
        if self.ids["<|message|>"] not in segment:
            return self.encoder.decode(segment), None
        at = segment.index(self.ids["<|message|>"])
        body = segment[at + 1 :]
        return self.encoder.decode(segment[:at]), body[:-1] if body[-1:] == [self.ids["<|end|>"]] else body

    def _channel(self, head: str) -> str:
        words = head.partition("<|channel|>")[2].split()
        return words[0] if words else ""
