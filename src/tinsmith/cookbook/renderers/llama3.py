"""The format of Llama 3 (instruct), as its published chat template has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import PieceRenderer, Turn
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage

_BOS = "<|begin_of_text|>"


class Llama3Renderer(PieceRenderer):
    """`llama3`: `<|start_header_id|>ROLE<|end_header_id|>`, an empty line, the trimmed text, `<|eot_id|>`."""

    controls = ("<|eot_id|>", _BOS, "<|start_header_id|>", "<|end_header_id|>")

    def __init__(self, tokenizer: Any, name: str = "llama3") -> None:
        super().__init__(tokenizer, name)

    def turns(self, messages: Sequence[CheckedMessage], *, generating: bool) -> list[Turn]:
        return [Turn(None, [Piece(_BOS)])] + [Turn(i, self._turn(message)) for i, message in enumerate(messages)]

    def opening(self) -> list[Piece]:
        return [Piece(_header("assistant"))]

    def _turn(self, message: CheckedMessage) -> list[Piece]:
        text = Piece(message.text.strip(), data=True, spoken=True, seam=message.role == "assistant")
        return [Piece(_header(message.role)), text, Piece(self.end_marker, spoken=True)]


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"
