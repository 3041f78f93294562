"""Control tokens that rows spell: `<|user|>` in somebody's text is text, and seldom meant as such in training data."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from tinsmith.cookbook.renderers.encoding import PieceEncoder, fast_tokenizer
from tinsmith.cookbook.renderers.messages import CheckedMessage
from tinsmith.cookbook.rows.row_notes import RowNotes, Spelled
from tinsmith.types.errors import invalid

_IN_TEXT = "is learned as text; text_control_tokens=true reads it as the token"
_IN_MESSAGE = (
    "is learned as text: in a conversation the renderer alone writes control tokens. Thinking goes into "
    "reasoning_content, calls of tools into tool_calls"
)
# Renderers of models that think read these in an answer as the marks that they are.
_THINKING = ("<think>", "</think>")


def note_spelled(notes: RowNotes, tokenizer: Any, field: str, text: str) -> None:
    """Note the first control token that a text spells.

    Args:
        notes: of the row.
        tokenizer: of the model.
        field: where the text stands.
        text: of the row.
    """
    for token in _finder(fast_tokenizer(tokenizer)).find(text):
        notes.spelled(Spelled(field, token, _IN_TEXT))
        return


def note_spelled_in_messages(notes: RowNotes, tokenizer: Any, messages: Sequence[CheckedMessage]) -> None:
    """Note the first control token that messages spell; what was sampled has its tokens, and is not looked at."""
    finder = _finder(fast_tokenizer(tokenizer))
    for index, message in enumerate(messages):
        if message.tokens is not None:
            continue
        for token in finder.find(message.text):
            if message.role != "assistant" or token not in _THINKING:
                notes.spelled(Spelled(f"messages[{index}].content", token, _IN_MESSAGE))
                return


def end_token(tokenizer: Any) -> int:
    """Return the id of the token that ends a text.

    Raises:
        UserError: the tokenizer names none.
    """
    found = getattr(tokenizer, "eos_token_id", None)
    if found is None:
        raise invalid("text_eos", True, "false: the tokenizer names no eos_token")
    return int(found)


class _Finder:
    """Finds the control tokens of a tokenizer in texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encoder = PieceEncoder(tokenizer)
        # Looking for two letters is a hundred times as fast as a pattern of a hundred names, and most texts have none.
        self._beginnings = sorted({name[:2] for name in self._encoder.control_names()})

    def find(self, text: str) -> list[str]:
        """Return the control tokens that a text spells, in order."""
        if not any(beginning in text for beginning in self._beginnings):
            return []
        return [match.group() for match in self._encoder.find_control(text)]


# As the encoders of texts: one run has one tokenizer, perhaps with a teacher's or a judge's beside it.
@functools.lru_cache(maxsize=4)
def _finder(tokenizer: Tokenizer) -> _Finder:
    return _Finder(tokenizer)
