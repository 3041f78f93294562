"""A format for base models, which know no control tokens: `User: ...`, an empty line, `Assistant: ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.renderers.base import ParsedResponse, PieceRenderer, Turn, TurnEnd
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import CheckedMessage

_BOS_TOKENS = ("<|begin_of_text|>", "<s>", "<bos>")


class RoleColonRenderer(PieceRenderer):
    r"""`role_colon`: `Role: text`, turns parted by an empty line; an answer ends where `\n\nUser:` begins.

    That marker is part of the assistant's turn and learned with it, after the last answer too.
    """

    def __init__(self, tokenizer: Any, name: str = "role_colon") -> None:
        super().__init__(tokenizer, name)
        self._bos = next((token for token in _BOS_TOKENS if self.encoder.has_control(token)), None)

    @property
    def end_marker(self) -> str:
        return "\n\nUser:"

    def turns(self, messages: Sequence[CheckedMessage], *, generating: bool) -> list[Turn]:
        turns = [] if self._bos is None else [Turn(None, [Piece(self._bos)])]
        for index, message in enumerate(messages):
            after = messages[index + 1].role if index + 1 < len(messages) else None
            before = messages[index - 1].role if index else None
            turns.append(Turn(index, self._turn(message, before, after, generating)))
        return turns

    def opening(self) -> list[Piece]:
        return [Piece("Assistant:")]

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self.end_marker]

    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        text, found, _ = self.encoder.decode(tokens).partition(self.end_marker)
        return ParsedResponse(self.read_answer(text.strip()), TurnEnd.MARKER if found else TurnEnd.CUT_OFF)

    def _turn(self, message: CheckedMessage, before: str | None, after: str | None, generating: bool) -> list[Piece]:
        # The marker of an answer already holds the header of the question that follows.
        header = "" if (before, message.role) == ("assistant", "user") else f"{message.role.capitalize()}:"
        answered = message.role == "assistant" and (after == "user" or (after is None and not generating))
        end = self.end_marker if answered else "\n\n"
        text = Piece(f" {message.text}", data=True, spoken=True, seam=message.role == "assistant")
        return [Piece(header), text, Piece(end, spoken=True)]
