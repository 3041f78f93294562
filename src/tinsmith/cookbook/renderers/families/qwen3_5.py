"""The format of Qwen 3.5 and 3.6: texts trimmed, the prompt opens the thinking, arguments of calls as tagged lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.families.chatml import ChatMLRenderer
from tinsmith.cookbook.renderers.families.qwen3 import EMPTY_THOUGHT, Qwen3Renderer, is_question, last_question
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import Turn
from tinsmith.cookbook.renderers.tools import ToolSpec, make_call, to_json
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid

_TOOLS_BEGIN = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_END = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested "
    "within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, but "
    "NOT after\n- If there is no function call available, answer the question like normal with your current knowledge "
    "and do not tell the user about function calls\n</IMPORTANT>"
)
_CALL = re.compile(r"\s*<function=([^>\n]+)>\n(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>]*)>\n(.*?)\n</parameter>\s*", re.DOTALL)
# How the template of 3.5 writes what is neither text nor a list nor an object: as Python does.
PYTHON_VALUES = {"True": True, "False": False, "None": None}


class Qwen35Renderer(Qwen3Renderer):
    """`qwen3_5`, and with JSON values `qwen3_6`: thinking opens in the prompt, all texts are trimmed.

    Args:
        tokenizer: of the model.
        name: in the registry.
        thinking: False (`qwen3_5_disable_thinking`) puts an empty thought into the prompt, as the models of 2B and
            fewer parameters have it by default.
        keep_thinking: True renders every answer as the template renders those after the last question, so that the
            renderer has the extension property; the option `preserve_thinking` of 3.6's template.
        json_values: numbers, truth values and null in a call's arguments as JSON (3.6), not as Python (3.5).
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str = "qwen3_5",
        *,
        thinking: bool = True,
        keep_thinking: bool = False,
        json_values: bool = False,
    ) -> None:
        super().__init__(tokenizer, name, thinking=thinking, keep_thinking=keep_thinking)
        self._json_values = json_values

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        for index, message in enumerate(checked[1:], 1):
            if message.role == "system":
                raise invalid(f"messages[{index}].role", "system", "a system message at the beginning alone")
        if checked[0].role == "tool":
            raise invalid("messages[0].role", "tool", "a call before its result")
        if not any(is_question(message) for message in checked):
            raise invalid("messages", [m.role for m in checked], "a question of the user")
        return checked

    def adapt(self, message: CheckedMessage) -> CheckedMessage:
        adapted = super().adapt(replace(message, text=message.text.strip()))
        return adapted if adapted.thinking is None else replace(adapted, thinking=adapted.thinking.strip())

    def given_thought(self) -> list[Piece]:
        return [Piece("<think>\n" if self.thinking else EMPTY_THOUGHT)]

    def system_turn(self, first: CheckedMessage, tools: Sequence[ToolSpec]) -> Turn | None:
        if not tools:
            return super().system_turn(first, tools)
        index, text = (0, first.text) if first.role == "system" else (None, "")
        shown = "".join(f"\n{to_json(tool)}" for tool in tools)
        pieces = [Piece(f"<|im_start|>system\n{_TOOLS_BEGIN}"), Piece(shown, data=True), Piece(_TOOLS_END)]
        if text:
            pieces += [Piece("\n\n"), Piece(text, data=True, spoken=True)]
        return Turn(index, [*pieces, Piece(self.end_marker, spoken=True), Piece("\n")])

    def answer(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        message = messages[index]
        thinks = self.keep_thinking or index > last_question(messages)
        if message.tokens is not None:
            if not thinks:
                return self.sampled(self.without_thinking(message.tokens))
            return [*self.given_thought(), *self.sampled(message.tokens)]
        if not thinks:
            return ChatMLRenderer.answer(self, messages, index)
        if self.thinking:
            begin = [*self.given_thought(), Piece(message.thinking or "", data=True, spoken=True, seam=True)]
        elif message.thinking:
            begin = [Piece("<think>\n", spoken=True, seam=True), Piece(message.thinking, data=True, spoken=True)]
        else:
            text = Piece(message.text, data=True, spoken=True, seam=True)
            return self.said(message, [*self.given_thought(), text, *self.calls(message)])
        rest = [Piece("\n</think>\n\n", spoken=True), Piece(message.text, data=True, spoken=True)]
        return self.said(message, [*begin, *rest, *self.calls(message)])

    def calls(self, message: CheckedMessage) -> list[Piece]:
        pieces: list[Piece] = []
        for number, call in enumerate(message.tool_calls):
            separator = "\n" if number else "\n\n" if message.text else ""
            lines = [f"\n<function={call.name}>\n"]
            arguments = json.loads(call.arguments) if isinstance(call.arguments, str) else call.arguments
            lines += [f"<parameter={k}>\n{self._spelled(v)}\n</parameter>\n" for k, v in arguments.items()]
            pieces += [
                Piece(f"{separator}<tool_call>", spoken=True),
                Piece("".join([*lines, "</function>\n"]), data=True, spoken=True),
                Piece("</tool_call>", spoken=True),
            ]
        return pieces

    def split(self, tokens: Sequence[int]) -> tuple[list[int] | None, list[int]]:
        thought, rest = super().split(tokens)
        # The prompt has opened the thinking: what never closes it is nothing else.
        return (list(tokens), []) if thought is None and self.thinking else (thought, rest)

    def read_answer(self, tokens: list[int]) -> Message:
        message = super().read_answer(tokens)
        message["content"] = str(message["content"]).strip()
        return message

    def read_call(self, text: str) -> dict[str, Any] | str:
        return read_tagged_call(text, {} if self._json_values else PYTHON_VALUES)

    def _spelled(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return to_json(value) if self._json_values or isinstance(value, Mapping | list | tuple) else str(value)


def read_tagged_call(text: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the call that `<function=NAME>` and its `<parameter=NAME>`s spell, or why they spell none.

    Nothing marks a parameter that is text, so what reads as another kind of value is one.

    Args:
        text: what stands between the marks of a call.
        values: words that stand for a value of another kind.
    """
    found = _CALL.fullmatch(text)
    if found is None:
        return "not <function=NAME>, its parameters and </function>"
    if _PARAMETER.sub("", found[2]).strip():
        return "something stands between the parameters"
    return make_call(found[1], {k: _read_value(v, values) for k, v in _PARAMETER.findall(found[2])})


def _read_value(text: str, values: Mapping[str, Any]) -> Any:
    if text in values:
        return values[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value
