"""Rows to examples (tokens and weights), and examples to datums."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from tinsmith.client.tokenizer.joints import ids_around
from tinsmith.cookbook.batches.datums import datum_from_tokens_weights
from tinsmith.cookbook.renderers import Renderer, SupervisedExample, TrainOnWhat
from tinsmith.cookbook.renderers.base import Conversation, Tools
from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder, fast_tokenizer
from tinsmith.cookbook.renderers.messages import flagged
from tinsmith.cookbook.renderers.train_on_what import parse_train_on_what
from tinsmith.cookbook.rows.formats.chat_messages import own_messages
from tinsmith.cookbook.rows.formats.own_form import own_row, parse_segments
from tinsmith.cookbook.rows.formats.tool_lists import own_tools
from tinsmith.cookbook.rows.row_kinds import chosen_messages, is_text, read_messages
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.spelled_tokens import end_token
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
        messages: from the first to the last that is learned; those of OpenAI's older formats are converted.
        renderer: of the model that will learn it.
        max_length: tokens kept of a longer conversation; None keeps all.
        train_on_what: which messages are learned.
        tools: that the assistant may call.

    Raises:
        UserError: the conversation is not well formed.
    """
    said = own_messages(list(messages), "messages", RowNotes())
    tokens, weights = renderer.build_supervised_example(said, train_on_what, tools=own_tools({"tools": tools}))
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
    """Make the datums of a row of a data file: `messages`, `text`, `prompt` and `completion`, or of another format."""
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
    row = own_row(dict(row))
    if row.get("segments") is not None:
        return [segments_to_example(parse_segments(row["segments"]), tokenizer)]
    if is_text(row):
        control_tokens, eos = row.get("text_control_tokens", False), row.get("text_eos", False)
        return [text_to_example(row["text"], tokenizer, control_tokens=control_tokens, eos=eos)]
    said = read_messages(row)
    # A conversation from its first message on: the renderer itself knows which answers `train_on_what` chooses.
    if not said.learned_from:
        return renderer.build_supervised_examples(said.messages, train_on_what, tools=said.tools)
    what = parse_train_on_what(train_on_what)
    chosen = chosen_messages(renderer.check(said.messages, said.tools), said.learned_from, what)
    # Of a prompt that has answers in it, none may be learned: flags say so message by message.
    messages = [flagged(message, index in chosen) for index, message in enumerate(said.messages)]
    return renderer.build_supervised_examples(messages, TrainOnWhat.CUSTOMIZED, tools=said.tools)


def text_to_example(text: str, tokenizer: Any, *, control_tokens: bool = False, eos: bool = False) -> SupervisedExample:
    """Make an example of raw text: every token is learned.

    The tokens that the tokenizer itself puts before a text (BOS) and behind it (EOS) stand there.

    Args:
        text: of a row.
        tokenizer: of the model that will learn it.
        control_tokens: whether a control token that is spelled in the text is one; otherwise it stays text.
        eos: whether the tokenizer's end token comes last.

    Raises:
        UserError: an end token is asked for, and the tokenizer has none.
    """
    encoder = _encoder(fast_tokenizer(tokenizer))
    # The text as plain data: `<|eot_id|>` in somebody's essay must not end a turn.
    tokens = encoder.encode([Piece(text, data=not control_tokens)])
    before, behind = ids_around(encoder.backend)
    # Where control tokens are read, the text may bring its own.
    tokens = tokens if tokens[: len(before)] == before else before + tokens
    tokens = tokens if not behind or tokens[-len(behind) :] == behind else tokens + behind
    end = end_token(tokenizer) if eos else None
    if end is not None and tokens[-1:] != [end]:
        tokens = [*tokens, end]
    return SupervisedExample(tokens, [1.0] * len(tokens))


def segments_to_example(segments: Sequence[tuple[str, bool]], tokenizer: Any) -> SupervisedExample:
    """Make an example of the parts of a text, as axolotl's `input_output` has them.

    Control tokens that are spelled in them are tokens, and nothing is added: the parts say all that there is, BOS and
    the ends of turns included. No token spans two parts.

    Args:
        segments: texts, each with whether it is learned.
        tokenizer: of the model that will learn it.
    """
    pieces = [Piece(text, seam=True) for text, _ in segments]
    weights = [float(learned) for _, learned in segments]
    return SupervisedExample(*_encoder(fast_tokenizer(tokenizer)).encode_weighted(pieces, weights))


# An encoder reads the whole vocabulary; a run needs one, a process with a teacher or a judge two or three.
@functools.lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer) -> PieceEncoder:
    return PieceEncoder(tokenizer)
