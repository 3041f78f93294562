"""The formats of Llama 3 and Llama 3.1 (instruct), as their published chat templates have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolSpec

BOS = "<|begin_of_text|>"


class Llama3Renderer(PieceRenderer):
    """`llama3`: `<|start_header_id|>ROLE<|end_header_id|>`, an empty line, the trimmed text, `<|eot_id|>`."""

    controls = ("<|eot_id|>", BOS, "<|start_header_id|>", "<|end_header_id|>")

    def __init__(self, tokenizer: Any, name: str = "llama3") -> None:
        super().__init__(tokenizer, name)

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        return [Turn(None, [Piece(BOS)])] + [Turn(i, self.turn(message)) for i, message in enumerate(messages)]

    def opening(self) -> list[Piece]:
        return [Piece(header("assistant"))]

    def turn(self, message: CheckedMessage) -> list[Piece]:
        """Return the pieces of a message of text."""
        text = Piece(message.text.strip(), data=True, spoken=True, seam=message.role == "assistant")
        return [Piece(header(message.role)), *self.said(message, [text])]


def header(role: str) -> str:
    """Return what opens a turn."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"
