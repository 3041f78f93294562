"""The formats of DeepSeek-V3 (with R1) and of V3.1: no line breaks between turns, no header before a system message.

With thinking, prompts and history are the published templates'. An answer that would be sampled next is spelled as it
would be, behind the thinking that the prompt opens; the templates leave the thinking of every answer out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tinsmith.cookbook.renderers.base import Conversation, ParsedResponse, Tools, TurnEnd
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.marks import Section, read_section, split_thinking
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolCall, ToolSpec, arguments_text, read_arguments
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat
from tinsmith.types.errors import invalid

_BOS = "<｜begin▁of▁sentence｜>"
_THINK = ("<think>", "</think>")


class DeepSeekV3Renderer(PieceRenderer):
    """`deepseek_v3`, and with thinking (DeepSeek-R1) `deepseek_v3_thinking`.

    The published template forgets the header of a second round of calls and the opening of its results; here they are
    spelled like those of the first.

    Args:
        tokenizer: of the model.
        name: in the registry.
        thinking: the prompt opens the thinking.
        keep_thinking: earlier answers keep their thinking, so that the renderer has the extension property; the
            template has no such option.
    """

    controls = (
        "<｜end▁of▁sentence｜>",
        _BOS,
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁outputs▁begin｜>",
        "<｜tool▁outputs▁end｜>",
        "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
    )
    has_tools = True
    # How the prompt opens the thinking, what closes it, and what the prompt says where there is none.
    thought_opening = "<think>\n"
    thought_closing = "\n</think>\n\n"
    no_thought = ""
    call_separator = "\n"
    after_results = "<｜tool▁outputs▁end｜>"

    def __init__(
        self, tokenizer: Any, name: str = "deepseek_v3", *, thinking: bool = False, keep_thinking: bool = False
    ) -> None:
        self._thinking = thinking
        self._keep_thinking = keep_thinking
        if thinking or self.no_thought:
            self.controls = (*self.controls, *_THINK)
        super().__init__(tokenizer, name)
        self.has_extension_property = keep_thinking or not thinking
        marks = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
        self._section = Section(*(self.ids[mark] for mark in marks))

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        checked = [self._read_written(checked, index) for index in range(len(checked))]
        if tools:
            raise invalid(
                "tools",
                [tool["function"]["name"] for tool in tools],
                f"none: the format of {self.name!r} has no place for definitions; describe them in a system message",
            )
        return checked

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        message = messages[index]
        return message.role == "assistant" and (message.tokens is not None or self._thinks(messages, index))

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        turns = [Turn(None, [Piece(_BOS)])]
        systems = [index for index, message in enumerate(messages) if message.role == "system"]
        for index in systems:
            separator = [Piece("\n\n")] if index != systems[0] else []
            turns.append(Turn(index, [*separator, Piece(messages[index].text, data=True, spoken=True)]))
        for index, message in enumerate(messages):
            if message.role == "user":
                turns.append(Turn(index, [Piece("<｜User｜>"), Piece(message.text, data=True, spoken=True)]))
            elif message.role == "tool":
                turns.append(Turn(index, self.result(messages, index)))
            elif message.role == "assistant":
                live = self._keep_thinking or (index == len(messages) - 1 and not generating)
                thinks = live and self._thinks(messages, index)
                turns.append(
                    Turn(index, [*self._begin(messages, index, thinks), *self._answer(messages, index, thinks)])
                )
        end = len(messages)
        if generating:
            turns.append(Turn(None, self._begin(messages, end, self._thinks(messages, end))))
        elif role_before(messages, end) == "tool" and self.after_results:
            turns.append(Turn(None, [Piece(self.after_results)]))
        return turns

    def opening(self) -> list[Piece]:
        return []  # it depends on the message before: `turns` has it

    def result(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        """Return the pieces of a tool's result."""
        first = role_before(messages, index) != "tool"
        begin = Piece("<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>" if first else "<｜tool▁output▁begin｜>")
        text = Piece(messages[index].text, data=True, spoken=True)
        return [begin, text, Piece("<｜tool▁output▁end｜>", spoken=True)]

    def call(self, call: ToolCall) -> list[Piece]:
        """Return the pieces of a call, between the marks of one."""
        shown = f"{call.name}\n```json\n{arguments_text(call)}\n```"
        return [Piece("function<｜tool▁sep｜>", spoken=True), Piece(shown, data=True, spoken=True)]

    def read_call(self, head: str, rest: str) -> dict[str, Any] | str:
        """Return the call that the texts before and behind its separator spell, or why they spell none."""
        name, fence, arguments = rest.partition("\n```json\n")
        if head != "function" or not fence:
            return "not a function's name and its arguments in a JSON fence"
        return read_arguments(name, arguments.removesuffix("```"))

    def read_answer(self, tokens: list[int]) -> Message:
        thought, rest = self._split(tokens)
        message = read_section(self.encoder, rest, self._section, self.read_call)
        if thought is not None:
            before, _, after = self.thought_closing.partition("</think>")
            message["content"] = str(message["content"]).removeprefix(after)
            thinking = self.encoder.decode(thought).removesuffix(before)
            if tokens[:1] == [self.ids["<think>"]]:
                thinking = thinking.removeprefix(self.thought_opening.removeprefix("<think>"))
            if thinking:
                message["reasoning_content"] = thinking
        return message

    def parse_response(self, tokens: Sequence[int], *, prefill: str | None = None) -> ParsedResponse:
        parsed = super().parse_response(tokens, prefill=prefill)
        said = parsed.message.get("tokens", [])
        if parsed.end is TurnEnd.CUT_OFF and self._thinking and self.ids["</think>"] not in said:
            # The prompt has opened the thinking, and nothing has closed it.
            thinking = self.encoder.decode(said)
            return ParsedResponse(
                {"role": "assistant", "content": "", "reasoning_content": thinking, "tokens": said}, parsed.end
            )
        return parsed

    def has_header(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        """Whether an answer at this place has a header: not where it goes on after a result."""
        return role_before(messages, index) != "tool"

    def cut_thinking(self, text: str) -> tuple[str, str, str]:
        """Cut a text at the end of the thinking that is written into it, as the template does."""
        return text.rpartition("</think>")

    def _read_written(self, messages: Sequence[CheckedMessage], index: int) -> CheckedMessage:
        """Return a message without the thinking that is written into its text; templates look for it."""
        message = messages[index]
        plain = message.tokens is not None or message.tool_calls or not self.has_header(messages, index)
        if message.role != "assistant" or plain or "</think>" not in message.text:
            return message
        before, _, text = self.cut_thinking(message.text)
        if not self._thinking:
            return replace(message, text=text)
        thinking = message.thinking or before.removeprefix("<think>").strip("\n")
        return replace(message, text=text.lstrip("\n"), thinking=thinking)

    def _thinks(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        """Whether an answer at this place opens with thinking when it is sampled."""
        return self._thinking and self.has_header(messages, index)

    def _begin(self, messages: Sequence[CheckedMessage], index: int, thinks: bool) -> list[Piece]:
        """Return what stands before what the assistant says at a place of the conversation."""
        if not self.has_header(messages, index):
            return [Piece(self.after_results)] if self.after_results else []
        return [Piece(f"<｜Assistant｜>{self.thought_opening if thinks else self.no_thought}")]

    def _answer(self, messages: Sequence[CheckedMessage], index: int, thinks: bool) -> list[Piece]:
        """Return what the assistant says; `thinks` when it opens with thinking."""
        message = messages[index]
        if message.tokens is not None:
            forgotten = self._thinks(messages, index) and not thinks
            return self.sampled(self._without_thinking(message.tokens) if forgotten else message.tokens)
        calls: list[Piece] = []
        for number, call in enumerate(message.tool_calls):
            begin = (
                f"{self.call_separator}<｜tool▁call▁begin｜>"
                if number
                else "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
            )
            calls += [Piece(begin, spoken=True), *self.call(call), Piece("<｜tool▁call▁end｜>", spoken=True)]
        if calls:
            calls.append(Piece("<｜tool▁calls▁end｜>", spoken=True))
        if not thinks:
            return self.said(message, [Piece(message.text, data=True, spoken=True, seam=True), *calls])
        thought = Piece(message.thinking or "", data=True, spoken=True, seam=True)
        text = Piece(message.text, data=True, spoken=True)
        return self.said(message, [thought, Piece(self.thought_closing, spoken=True), text, *calls])

    def _split(self, tokens: Sequence[int]) -> tuple[list[int] | None, list[int]]:
        if not self._thinking:
            return None, list(tokens)
        return split_thinking(tokens, self.ids["<think>"], self.ids["</think>"])

    def _without_thinking(self, tokens: Sequence[int]) -> list[int]:
        """Return sampled ids as later prompts hold them; thinking that was cut off leaves nothing."""
        thought, rest = self._split(tokens)
        if thought is None:
            return []
        while rest and not self.encoder.decode(rest[:1]).strip("\n"):
            rest = rest[1:]
        return rest


def role_before(messages: Sequence[CheckedMessage], index: int) -> str | None:
    """Return the role of the message before a place, as the text has them: system messages all come first."""
    return next((messages[i].role for i in reversed(range(index)) if messages[i].role != "system"), None)


class DeepSeekV31Renderer(DeepSeekV3Renderer):
    """`deepseek_v3_1` and `deepseek_v3_1_thinking`: every answer to a question opens or closes the thinking.

    No test can hold the published template against it (see docs/renderers.md).
    """

    thought_opening = "<think>"
    thought_closing = "</think>"
    no_thought = "</think>"
    call_separator = ""
    after_results = ""

    def __init__(
        self, tokenizer: Any, name: str = "deepseek_v3_1", *, thinking: bool = False, keep_thinking: bool = False
    ) -> None:
        super().__init__(tokenizer, name, thinking=thinking, keep_thinking=keep_thinking)

    def has_header(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        # What follows a result, or an answer, does so without.
        return role_before(messages, index) == "user"

    def cut_thinking(self, text: str) -> tuple[str, str, str]:
        return text.partition("</think>")

    def result(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        text = Piece(messages[index].text, data=True, spoken=True)
        return [Piece("<｜tool▁output▁begin｜>"), text, Piece("<｜tool▁output▁end｜>", spoken=True)]

    def call(self, call: ToolCall) -> list[Piece]:
        name = Piece(call.name, data=True, spoken=True)
        return [name, Piece("<｜tool▁sep｜>", spoken=True), Piece(arguments_text(call), data=True, spoken=True)]

    def read_call(self, head: str, rest: str) -> dict[str, Any] | str:
        return read_arguments(head, rest)
