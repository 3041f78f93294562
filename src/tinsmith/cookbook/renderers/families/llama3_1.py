"""The formats of Llama 3.1 and 3.2 (instruct), as their published chat templates have them: dates, tools, calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.families.llama3 import BOS, Llama3Renderer, header
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import Turn
from tinsmith.cookbook.renderers.tools import (
    ToolCall,
    ToolSpec,
    UnparsedToolCall,
    make_call,
    read_json_call,
    to_json,
)
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid

_SYSTEM_TOOLS = (
    "You have access to the following functions. To call a function, please respond with JSON for a function call."
)
_USER_TOOLS = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
)
_HOW_TO_CALL = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)
_CODE = "code_interpreter"
_BUILTIN_CALL = re.compile(r"([\w.]+)\.call\((.*)\)", re.DOTALL)
_BUILTIN_ARGUMENT = re.compile(r'(\w+)="(.*?)"(?:, (?=\w+=")|$)', re.DOTALL)


class Llama31Renderer(Llama3Renderer):
    """`llama3_1`: a system turn with two dates, tools in the first question, one JSON call in a turn.

    Args:
        tokenizer: of the model.
        name: in the registry.
        date_string: "Today Date"; the default is the template's.
        tools_in_user_message: False puts the tools into the system turn.
        builtin_tools: names of the tools that the model was trained with (`brave_search`, `wolfram_alpha`,
            `code_interpreter`), called behind `<|python_tag|>`; a list, even an empty one, ends calls in `<|eom_id|>`.
    """

    controls = (*Llama3Renderer.controls, "<|eom_id|>", "<|python_tag|>")
    tool_markers = ("<|eom_id|>",)
    has_tools = True

    def __init__(
        self,
        tokenizer: Any,
        name: str = "llama3_1",
        *,
        date_string: str = "26 Jul 2024",
        tools_in_user_message: bool = True,
        builtin_tools: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(date_string, str):
            raise invalid("date_string", date_string, "a string")
        if isinstance(builtin_tools, str) or not all(isinstance(tool, str) for tool in builtin_tools or ()):
            raise invalid("builtin_tools", builtin_tools, "a list of names")
        super().__init__(tokenizer, name)
        self._date_string = date_string
        self._tools_in_user_message = tools_in_user_message
        self._builtin_tools = None if builtin_tools is None else tuple(builtin_tools)

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        first = int(checked[0].role == "system")
        if tools and self._tools_in_user_message and (len(checked) == first or checked[first].role != "user"):
            role = checked[first].role if len(checked) > first else None
            raise invalid(f"messages[{first}].role", role, f"'user': renderer {self.name!r} puts the tools there")
        for index, message in enumerate(checked):
            if message.tool_calls and message.tokens is None:
                self._check_call(message, f"messages[{index}]")
        return checked

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        shown = "".join(f"{to_json(tool, indent=4)}\n\n" for tool in tools)
        in_user_message = bool(tools) and self._tools_in_user_message
        turns = [self._system_turn(messages[0], "" if in_user_message else shown, bool(tools))]
        for index in range(int(messages[0].role == "system"), len(messages)):
            pieces = self.turn(messages[index])
            if in_user_message:
                pieces[1:1] = [Piece(_USER_TOOLS + _HOW_TO_CALL), Piece(shown, data=True)]
                in_user_message = False
            turns.append(Turn(index, pieces))
        return turns

    def turn(self, message: CheckedMessage) -> list[Piece]:
        if message.role == "tool":
            result = Piece(to_json(message.text), data=True, spoken=True)
            return [Piece(header("ipython")), *self.said(message, [result])]
        if not message.tool_calls:
            return super().turn(message)
        end_marker = self.end_marker if self._builtin_tools is None else "<|eom_id|>"
        return [Piece(header("assistant")), *self.said(message, self._call(message.tool_calls[0]), end_marker)]

    def read_answer(self, tokens: list[int]) -> Message:
        tagged = tokens[:1] == [self.ids["<|python_tag|>"]]
        text = self.encoder.decode(tokens[1:] if tagged else tokens)
        in_json = text.lstrip().startswith('{"name":') and '"parameters":' in text
        if not tagged and not in_json:
            return {"role": "assistant", "content": text}
        call = read_json_call(text, "parameters") if in_json else self._read_builtin_call(text)
        if isinstance(call, str):
            unparsed: UnparsedToolCall = {"text": self.encoder.decode(tokens), "reason": call}
            return {"role": "assistant", "content": "", "unparsed_tool_calls": [unparsed]}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    def _system_turn(self, first: CheckedMessage, shown: str, has_tools: bool) -> Turn:
        builtin = self._builtin_tools
        about = "Environment: ipython\n" if has_tools or builtin is not None else ""
        if builtin is not None:
            about += f"Tools: {', '.join(name for name in builtin if name != _CODE)}\n\n"
        about += f"Cutting Knowledge Date: December 2023\nToday Date: {self._date_string}\n\n"
        if shown:
            about += f"{_SYSTEM_TOOLS}{_HOW_TO_CALL}{shown}"
        pieces = [Piece(BOS), Piece(header("system")), Piece(about, data=True)]
        if first.role != "system":
            return Turn(None, [*pieces, Piece(self.end_marker)])
        return Turn(0, [*pieces, *self.said(first, [Piece(first.text.strip(), data=True, spoken=True)])])

    def _call(self, call: ToolCall) -> list[Piece]:
        if self._is_builtin(call) and not isinstance(call.arguments, str):
            said = ", ".join(f'{key}="{value}"' for key, value in call.arguments.items())
            return [
                Piece("<|python_tag|>", spoken=True, seam=True),
                Piece(f"{call.name}.call({said})", data=True, spoken=True),
            ]
        said = f'{{"name": "{call.name}", "parameters": {to_json(call.arguments)}}}'
        return [Piece(said, data=True, spoken=True, seam=True)]

    def _is_builtin(self, call: ToolCall) -> bool:
        return call.name in (self._builtin_tools or ())

    def _check_call(self, message: CheckedMessage, field: str) -> None:
        call, *more = message.tool_calls
        if more:
            names = [call.name for call in message.tool_calls]
            raise invalid(f"{field}.tool_calls", names, f"one call in a turn: renderer {self.name!r} has no more")
        if message.text.strip():
            raise invalid(
                f"{field}.content", message.text, f"no text beside a call: renderer {self.name!r} has no place for it"
            )
        if not self._is_builtin(call):
            return
        if isinstance(call.arguments, str) or not all(isinstance(value, str) for value in call.arguments.values()):
            raise invalid(
                f"{field}.tool_calls[0].function.arguments",
                call.arguments,
                f"an object of strings: {call.name!r} is a built-in tool",
            )

    def _read_builtin_call(self, text: str) -> dict[str, Any] | str:
        found = _BUILTIN_CALL.fullmatch(text)
        if found:
            arguments: dict[str, str] = {}
            position = 0
            while argument := _BUILTIN_ARGUMENT.match(found.group(2), position):
                arguments[argument.group(1)] = argument.group(2)
                position = argument.end()
            if position == len(found.group(2)):
                return make_call(found.group(1), arguments)
        if _CODE in (self._builtin_tools or ()):
            return make_call(_CODE, {"code": text})
        return 'neither {"name": ..., "parameters": {...}} nor NAME.call(KEY="VALUE", ...)'


class Llama32Renderer(Llama31Renderer):
    """`llama3_2`: as Llama 3.1 without built-in tools, and dated as its template: the day the renderer is made.

    Args:
        tokenizer: of the model.
        name: in the registry.
        date_string: "Today Date"; None is the day the renderer is made. Name one to see the same prompts tomorrow.
        tools_in_user_message: False puts the tools into the system turn.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str = "llama3_2",
        *,
        date_string: str | None = None,
        tools_in_user_message: bool = True,
    ) -> None:
        date = date_string if date_string is not None else datetime.now().strftime("%d %b %Y")
        super().__init__(tokenizer, name, date_string=date, tools_in_user_message=tools_in_user_message)
