"""The format of the embedded model: `<|user|>text<|end|><|assistant|>text<|end|>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.marks import read_calls, split_thinking
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolSpec, to_json
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid


class TinyRenderer(PieceRenderer):
    """`tinsmith_tiny`: one control token opens a turn, one ends it, nothing lies between turns."""

    controls = (
        "<|end|>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|tool|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
    )
    has_tools = True

    def __init__(self, tokenizer: Any, name: str = "tinsmith_tiny") -> None:
        super().__init__(tokenizer, name)

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        for index, tool in enumerate(tools or ()):
            for key in ("description", "parameters"):
                if key not in tool["function"]:
                    raise invalid(f"tools[{index}].function.{key}", None, f"one: the format of {self.name!r} shows it")
        return checked

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        turns = [Turn(index, self._turn(message)) for index, message in enumerate(messages)]
        if not tools:
            return turns
        shown = Piece("".join(f"\n{_shown(tool['function'])}" for tool in tools), data=True)
        if messages[0].role != "system":
            pieces = [Piece("<|system|>Tools:"), shown, Piece(self.end_marker)]
            return [Turn(None, pieces), *turns]
        header, text, end = turns[0].pieces
        return [Turn(0, [header, text, Piece("\nTools:"), shown, end]), *turns[1:]]

    def opening(self) -> list[Piece]:
        return [Piece("<|assistant|>")]

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return messages[index].role == "assistant"

    def read_answer(self, tokens: list[int]) -> Message:
        thought, rest = split_thinking(tokens, self.ids["<think>"], self.ids["</think>"])
        message = read_calls(self.encoder, rest, self.ids["<tool_call>"], self.ids["</tool_call>"], separator="")
        if thought:
            message["reasoning_content"] = self.encoder.decode(thought)
        return message

    def _turn(self, message: CheckedMessage) -> list[Piece]:
        header = Piece(f"<|{message.role}|>")
        text = Piece(message.text, data=True, spoken=True)
        if message.role == "tool":
            pieces = [Piece("<tool_response>"), text, Piece("</tool_response>", spoken=True)]
            return [header, *self.said(message, pieces)]
        thought: list[Piece] = []
        if message.thinking:
            thought = [
                Piece("<think>", spoken=True),
                Piece(message.thinking, data=True, spoken=True),
                Piece("</think>", spoken=True),
            ]
        calls: list[Piece] = []
        for call in message.tool_calls:
            shown = to_json({"name": call.name, "arguments": call.arguments})
            calls += [
                Piece("<tool_call>", spoken=True),
                Piece(shown, data=True, spoken=True),
                Piece("</tool_call>", spoken=True),
            ]
        return [header, *self.said(message, [*thought, text, *calls])]


def _shown(function: Mapping[str, Any]) -> str:
    return to_json({key: function[key] for key in ("name", "description", "parameters")})
