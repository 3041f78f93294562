"""The format of the embedded model: `<|user|>text<|end|><|assistant|>text<|end|>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import PieceRenderer, Turn
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message


class TinyRenderer(PieceRenderer):
    """`tinsmith_tiny`: one control token opens a turn, one ends it, nothing lies between turns."""

    controls = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>")

    def __init__(self, tokenizer: Any, name: str = "tinsmith_tiny") -> None:
        super().__init__(tokenizer, name)

    def turns(self, messages: Sequence[CheckedMessage], *, generating: bool) -> list[Turn]:
        return [Turn(index, self._turn(message)) for index, message in enumerate(messages)]

    def opening(self) -> list[Piece]:
        return [Piece("<|assistant|>")]

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return messages[index].role == "assistant"

    def read_answer(self, text: str) -> Message:
        if text.startswith("<think>"):
            thinking, closed, answer = text.removeprefix("<think>").partition("</think>")
            return {"role": "assistant", "content": answer if closed else "", "reasoning_content": thinking}
        return {"role": "assistant", "content": text}

    def _turn(self, message: CheckedMessage) -> list[Piece]:
        pieces = [Piece(f"<|{message.role}|>")]
        if message.thinking:
            pieces += [
                Piece("<think>", spoken=True),
                Piece(message.thinking, data=True, spoken=True),
                Piece("</think>", spoken=True),
            ]
        return [*pieces, Piece(message.text, data=True, spoken=True), Piece(self.end_marker, spoken=True)]
