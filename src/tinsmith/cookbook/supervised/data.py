"""Rows to datums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.renderers.base import Conversation
from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder
from tinsmith.cookbook.supervised.common import datum_from_tokens_weights
from tinsmith.types.datum import Datum


def conversation_to_datum(
    messages: Conversation,
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
) -> Datum:
    """Render a conversation and shift it.

    Args:
        messages: the conversation.
        renderer: of the model.
        max_length: tokens kept of a longer conversation; None keeps all.
        train_on_what: which messages are learned.

    Raises:
        UserError: the conversation is not well formed.
    """
    tokens, weights = renderer.build_supervised_example(messages, train_on_what)
    return datum_from_tokens_weights(tokens, weights, max_length)


def text_to_datum(text: str, tokenizer: Any, max_length: int | None = None) -> Datum:
    """Make a datum of raw text: every token is learned.

    The tokens that the tokenizer itself puts before a text (BOS) come first; control tokens spelled in the text stay
    text; no end-of-text token is added.

    Args:
        text: the text.
        tokenizer: of the model.
        max_length: tokens kept of a longer text; None keeps all.
    """
    encoder = PieceEncoder(tokenizer)
    beginning = encoder.backend.encode("", add_special_tokens=True).ids
    tokens, _ = encoder.encode([Piece(text, data=True)], [1.0])
    return datum_from_tokens_weights([*beginning, *tokens], [1.0] * (len(beginning) + len(tokens)), max_length)


def row_to_datum(
    row: Mapping[str, Any],
    renderer: Renderer,
    tokenizer: Any,
    max_length: int | None = None,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
) -> Datum:
    """Make a datum of a row of a data file: `{"messages": [...]}` or `{"text": "..."}`."""
    if "text" in row:
        return text_to_datum(row["text"], tokenizer, max_length)
    return conversation_to_datum(row["messages"], renderer, max_length, train_on_what)
