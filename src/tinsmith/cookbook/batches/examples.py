"""Rows to examples (tokens and weights), and examples to datums."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from tinsmith.client.tokenizer.joints import ids_around
from tinsmith.cookbook.batches.datums import datum_from_tokens_weights
from tinsmith.cookbook.renderers import Renderer, SupervisedExample, TrainOnWhat
from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder, fast_tokenizer
from tinsmith.cookbook.renderers.train_on_what import parse_train_on_what
from tinsmith.cookbook.rows.row_kinds import chosen_messages, read_messages
from tinsmith.types.datum import Datum


def conversation_to_datum(
    messages: Conversation,
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    *,
    tools: Tools = None,
) -> Datum:
    """Render a conversation and shift it.

    Args:
        messages: from the first to the last that is learned.
        renderer: of the model that will learn it.
        max_length: tokens kept of a longer conversation; None keeps all.
        train_on_what: which messages are learned.
        tools: that the assistant may call.

    Raises:
        UserError: the conversation is not well formed.
    """
    tokens, weights = renderer.build_supervised_example(messages, train_on_what, tools=tools)
    return datum_from_tokens_weights(tokens, weights, max_length)


def text_to_datum(text: str, tokenizer: Any, max_length: int | None = None) -> Datum:
    """Make a datum of raw text: every token is learned.

    Args:
        text: may be cut, never split.
        tokenizer: of the model that will learn it.
        max_length: tokens kept of a longer text; None keeps all.
    """
    tokens, weights = text_to_example(text, tokenizer)
    return datum_from_tokens_weights(tokens, weights, max_length)


def row_to_datums(
    row: Mapping[str, Any],
    renderer: Renderer,
    tokenizer: Any,
    max_length: int | None = None,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
) -> list[Datum]:
    """Make the datums of a row of a data file: `messages`, `text`, or `prompt` and `completion`."""
    examples = row_to_examples(row, renderer, tokenizer, train_on_what)
    return [datum_from_tokens_weights(*example, max_length) for example in examples]


def row_to_examples(
    row: Mapping[str, Any],
    renderer: Renderer,
    tokenizer: Any,
    train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
) -> list[SupervisedExample]:
    """Make the examples of a row: one, or one per answer where the format cannot train all answers in one go.

    Of a prompt and its completion, only the completion is learned.

    Raises:
        UserError: the row is not well formed, or the format cannot say it.
    """
    if "text" in row:
        return [text_to_example(row["text"], tokenizer)]
    said = read_messages(row)
    # A conversation from its first message on: the renderer itself knows which answers `train_on_what` chooses.
    if not said.learned_from:
        return renderer.build_supervised_examples(said.messages, train_on_what, tools=said.tools)
    what = parse_train_on_what(train_on_what)
    chosen = chosen_messages(renderer.check(said.messages, said.tools), said.learned_from, what)
    # Of a prompt that has answers in it, none may be learned: flags say so message by message.
    flagged = [{**message, "trainable": index in chosen} for index, message in enumerate(said.messages)]
    return renderer.build_supervised_examples(flagged, TrainOnWhat.CUSTOMIZED, tools=said.tools)


def text_to_example(text: str, tokenizer: Any) -> SupervisedExample:
    """Make an example of raw text: every token is learned.

    The tokens that the tokenizer itself puts before a text (BOS) and behind it (EOS) stand there, and no others;
    control tokens spelled in the text stay text.
    """
    encoder = _encoder(fast_tokenizer(tokenizer))
    # The text as plain data: `<|eot_id|>` in somebody's essay must not end a turn.
    middle = encoder.encode([Piece(text, data=True)])
    before, behind = ids_around(encoder.backend)
    tokens = [*before, *middle, *behind]
    return SupervisedExample(tokens, [1.0] * len(tokens))


# An encoder reads the whole vocabulary; a run needs one, a process with a teacher or a judge two or three.
@functools.lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer) -> PieceEncoder:
    return PieceEncoder(tokenizer)
