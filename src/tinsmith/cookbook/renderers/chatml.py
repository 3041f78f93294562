"""The ChatML formats of Qwen: 2.5, 3 with thinking, 3 with thinking turned off, and the instruct models of 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import PieceRenderer, Turn
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message

_QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


class ChatMLRenderer(PieceRenderer):
    """`qwen3_instruct`, and with a default system message `qwen2_5`: turns in `<|im_start|>` and `<|im_end|>`."""

    controls = ("<|im_end|>", "<|im_start|>")

    def __init__(self, tokenizer: Any, name: str = "qwen3_instruct", *, default_system: str | None = None) -> None:
        super().__init__(tokenizer, name)
        self._default_system = default_system

    @classmethod
    def qwen2_5(cls, tokenizer: Any, name: str = "qwen2_5") -> ChatMLRenderer:
        """Make the renderer of Qwen 2.5, whose template puts a system message where there is none."""
        return cls(tokenizer, name, default_system=_QWEN25_SYSTEM)

    def turns(self, messages: Sequence[CheckedMessage], *, generating: bool) -> list[Turn]:
        turns: list[Turn] = []
        if self._default_system is not None and messages[0].role != "system":
            turns.append(Turn(None, self._frame("system", [Piece(self._default_system)])))
        for index, message in enumerate(messages):
            turns.append(Turn(index, self._frame(message.role, self.body(messages, index, generating=generating))))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("<|im_start|>assistant\n")]

    def body(self, messages: Sequence[CheckedMessage], index: int, *, generating: bool) -> list[Piece]:
        """Return what stands between a turn's header and its end marker."""
        message = messages[index]
        return [Piece(message.text, data=True, spoken=True, seam=message.role == "assistant")]

    def _frame(self, role: str, body: list[Piece]) -> list[Piece]:
        return [Piece(f"<|im_start|>{role}\n"), *body, Piece(self.end_marker, spoken=True), Piece("\n")]


class Qwen3Renderer(ChatMLRenderer):
    """`qwen3`: the answer to the last question opens with thinking, earlier thinking is left out.

    With `thinking=False` (`qwen3_disable_thinking`) the prompt already holds an empty thought, so that the model
    answers at once. An example whose last answer does hold thinking is rendered with it, as the template does.
    """

    controls = ("<|im_end|>", "<|im_start|>", "<think>", "</think>")

    def __init__(self, tokenizer: Any, name: str = "qwen3", *, thinking: bool = True) -> None:
        super().__init__(tokenizer, name)
        self._thinking = thinking

    @classmethod
    def without_thinking(cls, tokenizer: Any, name: str = "qwen3_disable_thinking") -> Qwen3Renderer:
        """Make the renderer whose prompts turn thinking off."""
        return cls(tokenizer, name, thinking=False)

    def opening(self) -> list[Piece]:
        opening = super().opening()
        return opening if self._thinking else [*opening, Piece(_EMPTY_THOUGHT)]

    def adapt(self, message: CheckedMessage) -> CheckedMessage:
        return _split_thought(message)

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return messages[index].role == "assistant"

    def body(self, messages: Sequence[CheckedMessage], index: int, *, generating: bool) -> list[Piece]:
        message = messages[index]
        if message.role != "assistant":
            return super().body(messages, index, generating=generating)
        answering = index > _last_question(messages)
        thought = (message.thinking or "") if answering else ""
        if not answering or (not thought and index < len(messages) - 1):
            return [Piece(message.text, data=True, spoken=True, seam=True)]
        text = message.text.lstrip("\n")
        if not self._thinking and not thought:
            return [Piece(_EMPTY_THOUGHT), Piece(text, data=True, spoken=True, seam=True)]
        return [
            Piece("<think>\n", spoken=True, seam=True),
            Piece(thought.strip("\n"), data=True, spoken=True),
            Piece("\n</think>\n\n", spoken=True),
            Piece(text, data=True, spoken=True),
        ]

    def read_answer(self, text: str) -> Message:
        if not self._thinking:
            return {"role": "assistant", "content": text}
        thinking, closed, answer = text.removeprefix("<think>").partition("</think>")
        if not closed:
            if not text.startswith("<think>"):
                return {"role": "assistant", "content": text}
            return {"role": "assistant", "content": "", "reasoning_content": thinking.strip("\n")}
        message: Message = {"role": "assistant", "content": answer.removeprefix("\n\n")}
        if thinking.strip("\n"):
            message["reasoning_content"] = thinking.strip("\n")
        return message


def _split_thought(message: CheckedMessage) -> CheckedMessage:
    if message.role != "assistant" or message.thinking is not None or "</think>" not in message.text:
        return message
    thinking = message.text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    text = message.text.split("</think>")[-1].lstrip("\n")
    return CheckedMessage(message.role, text, thinking, message.tool_calls, message.trainable)


def _last_question(messages: Sequence[CheckedMessage]) -> int:
    """Return the index of the last question; as in the template, a bare tool response in a user turn is none."""
    for index in range(len(messages) - 1, -1, -1):
        text = messages[index].text
        response = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if messages[index].role == "user" and not response:
            return index
    return len(messages) - 1
