"""The ChatML formats of Qwen 2.5 and of the instruct models of Qwen 3: turns in `<|im_start|>` and `<|im_end|>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.marks import read_calls
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolCall, ToolSpec, read_json_call, to_json

_TOOLS_BEGIN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_END = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class ChatMLRenderer(PieceRenderer):
    """`qwen3_instruct`: a system turn only where there is a system message or tools."""

    controls = (
        "<|im_end|>",
        "<|im_start|>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
    )
    has_tools = True
    default_system: str | None = None

    def __init__(self, tokenizer: Any, name: str = "qwen3_instruct") -> None:
        super().__init__(tokenizer, name)

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        first = self.system_turn(messages[0], tools)
        turns = [] if first is None else [first]
        for index in range(int(messages[0].role == "system"), len(messages)):
            role = messages[index].role
            if role == "assistant":
                pieces = [Piece("<|im_start|>assistant\n"), *self.answer(messages, index), Piece("\n")]
            elif role == "tool":
                pieces = self._result(messages, index)
            else:
                pieces = [Piece(f"<|im_start|>{role}\n"), *self._text(messages[index].text), Piece("\n")]
            turns.append(Turn(index, pieces))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("<|im_start|>assistant\n")]

    def answer(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        """Return what stands between the header of an assistant's turn and the line break behind it."""
        message = messages[index]
        text = Piece(message.text, data=True, spoken=True, seam=True)
        return self.said(message, [text, *self.calls(message)])

    def calls(self, message: CheckedMessage) -> list[Piece]:
        """Return the pieces of a message's calls, which come after its text."""
        pieces: list[Piece] = []
        for number, call in enumerate(message.tool_calls):
            separator = "\n" if number or message.text else ""
            pieces += [
                Piece(f'{separator}<tool_call>\n{{"name": "', spoken=True),
                Piece(call.name, data=True, spoken=True),
                Piece('", "arguments": ', spoken=True),
                Piece(self.arguments(call), data=True, spoken=True),
                Piece("}\n</tool_call>", spoken=True),
            ]
        return pieces

    def arguments(self, call: ToolCall) -> str:
        """Return a call's arguments as the format writes them: a text as it is."""
        return call.arguments if isinstance(call.arguments, str) else to_json(call.arguments)

    def read_answer(self, tokens: list[int]) -> Message:
        marks = self.ids["<tool_call>"], self.ids["</tool_call>"]
        return read_calls(self.encoder, tokens, *marks, separator="\n", read=self.read_call)

    def read_call(self, text: str) -> dict[str, Any] | str:
        """Return the call that a text between the marks of one spells, or why it is none."""
        return read_json_call(text)

    def system_turn(self, first: CheckedMessage, tools: Sequence[ToolSpec]) -> Turn | None:
        index, text = (0, first.text) if first.role == "system" else (None, self.default_system)
        if text is None and not tools:
            return None
        pieces = [Piece("<|im_start|>system\n")]
        if text is not None:
            pieces.append(Piece(text, data=True, spoken=True))
        if tools:
            shown = "".join(f"\n{to_json(tool)}" for tool in tools)
            separator = "" if text is None else "\n\n"
            pieces += [Piece(separator + _TOOLS_BEGIN), Piece(shown, data=True), Piece(_TOOLS_END)]
        return Turn(index, [*pieces, Piece(self.end_marker, spoken=True), Piece("\n")])

    def _text(self, text: str) -> list[Piece]:
        return [Piece(text, data=True, spoken=True), Piece(self.end_marker, spoken=True)]

    def _result(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        """Return the pieces of a tool's result; results in a row share one turn of the user's."""
        follows = index > 0 and messages[index - 1].role == "tool"
        goes_on = index + 1 < len(messages) and messages[index + 1].role == "tool"
        pieces = [
            Piece("\n<tool_response>\n" if follows else "<|im_start|>user\n<tool_response>\n"),
            Piece(messages[index].text, data=True, spoken=True),
            Piece("\n</tool_response>", spoken=True),
        ]
        return pieces if goes_on else [*pieces, Piece(self.end_marker, spoken=True), Piece("\n")]


class Qwen25Renderer(ChatMLRenderer):
    """`qwen2_5`: a system message where there is none; arguments that are text are quoted once more."""

    default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

    def __init__(self, tokenizer: Any, name: str = "qwen2_5") -> None:
        super().__init__(tokenizer, name)

    def arguments(self, call: ToolCall) -> str:
        return to_json(call.arguments)
