"""A format for base models, which know no control tokens: `User: ...`, an empty line, `Assistant: ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.client.tokenizer.joints import Place, ids_around
from tinsmith.cookbook.renderers.base import ParsedResponse, TurnEnd, sampled_ids
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.tools import ToolSpec
from tinsmith.types.errors import invalid

_BOS_TOKENS = ("<|begin_of_text|>", "<s>", "<bos>")


class RoleColonRenderer(PieceRenderer):
    r"""`role_colon`: `Role: text`, turns parted by an empty line; an answer ends where `\n\nUser:` begins.

    That marker is part of the assistant's turn and learned with it, after the last answer too.
    """

    def __init__(self, tokenizer: Any, name: str = "role_colon") -> None:
        super().__init__(tokenizer, name)
        spelled = self.encoder.encode([Piece(f"A{self.end_marker}")])
        if self.end_marker not in self.encoder.decode(spelled, Place.TEXT):
            raise invalid(
                "tokenizer",
                "one whose text has no line breaks",
                f"one that spells line breaks: {name!r} ends with them",
            )
        own, _ = ids_around(self.encoder.backend)
        known = [self.encoder.control_id(token, name) for token in _BOS_TOKENS if self.encoder.has_control(token)]
        # What stands before a text in pretraining. Some tokenizers have such a token and leave it to others to put it.
        self._bos = tuple(own or known[:1])

    @property
    def end_marker(self) -> str:
        return "\n\nUser:"

    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        turns = [Turn(None, [Piece("", ids=self._bos, begins=True)])] if self._bos else []
        # Whether the turn before ended in the marker, which is already the header of a question.
        asked = False
        for index, message in enumerate(messages):
            if not asked:
                header = f"{message.role.capitalize()}:"
            else:
                header = "" if message.role == "user" else f"\n\n{message.role.capitalize()}:"
            after = messages[index + 1].role if index + 1 < len(messages) else None
            asked = message.role == "assistant" and (
                message.tokens is not None or after == "user" or (after is None and not generating)
            )
            text = Piece(f" {message.text}", data=True, spoken=True, seam=message.role == "assistant")
            said = self.said(message, [text], self.end_marker if asked else "\n\n")
            turns.append(Turn(index, [Piece(header), *said]))
        if asked and generating:
            turns.append(Turn(None, [Piece("\n\n")]))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("Assistant:")]

    def sampled(self, tokens: Sequence[int]) -> list[Piece]:
        piece = Piece("", spoken=True, ids=tuple(tokens))
        return (
            [piece] if self.end_marker in self.encoder.decode(tokens, Place.TEXT) else [piece, Piece(self.end_marker)]
        )

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self.end_marker]

    def parse_response(self, tokens: Sequence[int], *, prefill: str | None = None) -> ParsedResponse:
        whole = self.encoder.encode_prefill(prefill, self.opening()) + sampled_ids(tokens)
        text, found, _ = self.encoder.decode(whole, Place.TEXT).partition(self.end_marker)
        end = TurnEnd.MARKER if found else TurnEnd.CUT_OFF
        return ParsedResponse({"role": "assistant", "content": text.strip(), "tokens": whole}, end)
