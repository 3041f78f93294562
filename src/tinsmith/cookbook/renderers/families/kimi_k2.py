"""The formats of Kimi K2: turns in `<|im_user|>user<|im_middle|>` and `<|im_end|>`, calls in a section of their own.

Written from what is public of the models' templates; no test can hold the published ones against it (see
docs/renderers.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.marks import Section, read_section, split_thinking
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolSpec, arguments_text, read_arguments
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid

_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
_HEADERS = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}


class KimiK2Renderer(PieceRenderer):
    """`kimi_k2` (the thinking model) and, with `thinking=False`, `kimi_k2_instruct`.

    Answers up to the last one without a call have an empty thought, later ones their own.

    Args:
        tokenizer: of the model.
        name: in the registry.
        thinking: answers open with a thought, perhaps an empty one.
        keep_thinking: every answer keeps its thinking, so that the renderer has the extension property; the template
            has no such option.
    """

    controls = (
        "<|im_end|>",
        "<|im_user|>",
        "<|im_assistant|>",
        "<|im_system|>",
        "<|im_middle|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    )
    has_tools = True

    def __init__(
        self, tokenizer: Any, name: str = "kimi_k2", *, thinking: bool = True, keep_thinking: bool = False
    ) -> None:
        self._thinking = thinking
        self._keep_thinking = keep_thinking
        if thinking:
            self.controls = (*self.controls, "<think>", "</think>")
        super().__init__(tokenizer, name)
        self.has_extension_property = keep_thinking or not thinking
        marks = (
            "<|tool_calls_section_begin|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        )
        self._section = Section(*(self.ids[mark] for mark in marks))

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        _name_calls(checked)
        return checked

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return self._thinking and messages[index].role == "assistant"

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        turns: list[Turn] = []
        if tools:
            shown = json.dumps(list(tools), ensure_ascii=False, separators=(",", ":"))
            begin = Piece("<|im_system|>tool_declare<|im_middle|>")
            turns.append(Turn(None, [begin, Piece(shown, data=True), Piece(self.end_marker)]))
        if messages[0].role != "system":
            turns.append(Turn(None, [Piece(f"<|im_system|>system<|im_middle|>{_SYSTEM}{self.end_marker}")]))
        ids = _name_calls(messages)
        history = _end_of_history(messages, generating=generating)
        for index, message in enumerate(messages):
            name = Piece(message.name or message.role, data=True)
            header = [Piece(_HEADERS.get(message.role, "<|im_system|>")), name, Piece("<|im_middle|>")]
            if message.role == "assistant":
                said = self._answer(message, ids[index], thinks=self._keep_thinking or index >= history)
            else:
                result = [Piece("## Return of "), Piece(f"{ids[index][0]}\n", data=True)] if ids[index] else []
                said = [*result, *self.said(message, [Piece(message.text, data=True, spoken=True)])]
            turns.append(Turn(index, [*header, *said]))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("<|im_assistant|>assistant<|im_middle|>")]

    def read_answer(self, tokens: list[int]) -> Message:
        thought, rest = self._split(tokens)
        message = read_section(self.encoder, rest, self._section, _read_call)
        if thought:
            message["reasoning_content"] = self.encoder.decode(thought)
        return message

    def _split(self, tokens: Sequence[int]) -> tuple[list[int] | None, list[int]]:
        if not self._thinking:
            return None, list(tokens)
        return split_thinking(tokens, self.ids["<think>"], self.ids["</think>"])

    def _answer(self, message: CheckedMessage, ids: list[str], *, thinks: bool) -> list[Piece]:
        """Return what the assistant says; `ids` are those of its calls."""
        if message.tokens is not None:
            if thinks or not self._thinking:
                return self.sampled(message.tokens)
            return [Piece("<think></think>", spoken=True), *self.sampled(self._split(message.tokens)[1])]
        pieces = [Piece(message.text, data=True, spoken=True, seam=True)]
        if self._thinking:
            thought = Piece((message.thinking or "") if thinks else "", data=True, spoken=True)
            pieces = [Piece("<think>", spoken=True), thought, Piece("</think>", spoken=True), *pieces]
        if message.tool_calls:
            pieces.append(Piece("<|tool_calls_section_begin|>", spoken=True))
        for call, call_id in zip(message.tool_calls, ids, strict=True):
            pieces += [
                Piece("<|tool_call_begin|>", spoken=True),
                Piece(call_id, data=True, spoken=True),
                Piece("<|tool_call_argument_begin|>", spoken=True),
                Piece(arguments_text(call), data=True, spoken=True),
                Piece("<|tool_call_end|>", spoken=True),
            ]
        if message.tool_calls:
            pieces.append(Piece("<|tool_calls_section_end|>", spoken=True))
        return self.said(message, pieces)


def _end_of_history(messages: Sequence[CheckedMessage], *, generating: bool) -> int:
    """Return the index of the first answer that stands as it was sampled.

    It comes after the last answer without a call; one that ends an example is what is sampled, not history.
    """
    past = messages if generating or messages[-1].role != "assistant" else messages[:-1]
    answers = [index for index, m in enumerate(past) if m.role == "assistant" and not m.tool_calls]
    return answers[-1] + 1 if answers else 0


def _name_calls(messages: Sequence[CheckedMessage]) -> list[list[str]]:
    """Return for each message the ids of its calls, or of the call whose result it is.

    Calls without one are named as the model names them, `functions.NAME:NUMBER`, counted through the conversation;
    results without one belong to the calls in order.
    """
    ids: list[list[str]] = []
    waiting: list[str] = []
    count = 0
    for index, message in enumerate(messages):
        named: list[str] = []
        for call in message.tool_calls:
            named.append(call.id or f"functions.{call.name}:{count}")
            count += 1
        waiting += named
        if message.role == "tool":
            if message.tool_call_id is None and not waiting:
                raise invalid(f"messages[{index}].tool_call_id", None, "the id of the call whose result this is")
            named = [message.tool_call_id or waiting[0]]
            waiting = [w for w in waiting if w != named[0]]
        ids.append(named)
    return ids


def _read_call(call_id: str, arguments: str) -> dict[str, Any] | str:
    """Return a call from its id, `functions.NAME:NUMBER`, and its arguments, or why they are none."""
    call_id = call_id.strip()
    name, colon, number = call_id.rpartition(":")
    if not colon or not number.isdigit():
        return "not an id functions.NAME:NUMBER"
    return read_arguments(name.removeprefix("functions."), arguments, call_id)
