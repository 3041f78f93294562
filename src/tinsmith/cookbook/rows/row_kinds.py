"""What a row of training data may be, and which of its messages are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.renderers.messages import CheckedMessage, check_messages
from tinsmith.cookbook.renderers.tools import check_tools
from tinsmith.cookbook.renderers.train_on_what import parse_train_on_what, trained_messages
from tinsmith.cookbook.rows.formats.own_form import CONVERSATIONS, EXPECTED, Row, own_row, parse_segments
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.spelled_tokens import end_token, note_spelled, note_spelled_in_messages
from tinsmith.types.errors import UserError, invalid


class RowCheck(Protocol):
    """What every row of a source has to pass: takes a row as it came, returns it as it is learned from."""

    def __call__(self, row: Any, *, notes: RowNotes) -> Row:
        """Return the row; `notes` takes what is worth telling of it.

        Raises:
            UserError: it cannot be used.
        """
        ...


# What a row of a prompt and its completion can be trained on: all of them choose answers of the completion.
_OF_COMPLETIONS = (
    TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    TrainOnWhat.LAST_ASSISTANT_TURN,
    TrainOnWhat.LAST_ASSISTANT_MESSAGE,
)


class Said(NamedTuple):
    """What a row with messages says.

    Attributes:
        messages: all of them, in order.
        learned_from: index of the first message that may be learned; what comes before is a prompt.
        tools: that the assistant may call.
    """

    messages: list[Mapping[str, Any]]
    learned_from: int
    tools: Any


def row_check(
    renderer: Renderer | None = None,
    train_on_what: TrainOnWhat | str | None = None,
    *,
    text_control_tokens: bool = False,
    text_eos: bool = False,
) -> RowCheck:
    """Return the check of rows to train on.

    Args:
        renderer, train_on_what: as for `check_row`.
        text_control_tokens: whether control tokens spelled in `text` rows are read as tokens.
        text_eos: whether `text` rows end with the tokenizer's end token.
    """
    asked = {"text_control_tokens": text_control_tokens, "text_eos": text_eos}
    options = {name: True for name, value in asked.items() if value}

    def check(row: Any, *, notes: RowNotes) -> Row:
        # What a row says itself goes before the setting for all.
        if options and isinstance(row, dict) and "text" in row:
            row = {**options, **row}
        return check_row(row, renderer, train_on_what, notes=notes)

    return check


def check_row(
    row: Any,
    renderer: Renderer | None = None,
    train_on_what: TrainOnWhat | str | None = None,
    *,
    notes: RowNotes | None = None,
) -> Row:
    """Return a row that can be trained on.

    Args:
        row: `{"messages": [...]}`, `{"text": "..."}`, or `{"prompt": ..., "completion": ...}`, each of the latter a
            text or a list of messages; or a row of another format, which is converted. Other keys are kept.
        renderer: whose format has to be able to say it; None asks for a well-formed one only.
        train_on_what: which of its messages are to be learned; None leaves flags of messages unchecked.
        notes: takes what is worth telling: keys that are not used, control tokens that the row spells.

    Raises:
        UserError: it is neither a conversation with an answer in it nor a text, it has a key that cannot be honoured,
            or the renderer cannot say it.
    """
    notes = notes or RowNotes()
    row = own_row(row, notes)
    try:
        _check_own(row, renderer, train_on_what, notes)
    except UserError as error:
        if notes.format is None:
            raise
        raise UserError(f"{error} (the row as it was converted from {notes.format})") from None
    return row


def _check_own(row: Row, renderer: Renderer | None, train_on_what: TrainOnWhat | str | None, notes: RowNotes) -> None:
    if "segments" in row:
        parse_segments(row["segments"])
        return
    if is_text(row):
        text = row["text"]
        if not isinstance(text, str) or not text.strip():
            raise invalid("text", text, "a text that is not empty")
        if renderer is not None and row.get("text_eos"):
            end_token(renderer.tokenizer)
        if renderer is not None and not row.get("text_control_tokens"):
            note_spelled(notes, renderer.tokenizer, "text", text)
        return
    said = _said(row)
    if renderer is None:
        check_tools(said.tools)
        messages = check_messages(said.messages)
    else:
        messages = renderer.check(said.messages, said.tools)
    for index, message in enumerate(messages):
        # A tool may have nothing to say.
        if not message.text.strip() and not message.tool_calls and not message.tokens and message.role != "tool":
            raise invalid(f"messages[{index}].content", message.text, "content that is not empty")
    if train_on_what is not None:
        chosen_messages(messages, said.learned_from, parse_train_on_what(train_on_what))
    # Without a choice yet, some answer has to be there for any choice to find.
    elif all(message.role != "assistant" for message in messages[said.learned_from :]):
        roles = [message.role for message in messages]
        raise invalid("messages", f"roles {', '.join(roles)}", "at least one message of the assistant to learn from")
    if renderer is not None:
        note_spelled_in_messages(notes, renderer.tokenizer, messages)


def is_text(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a text or its parts, in which nobody asks and nobody answers."""
    # Beside a conversation stands sometimes the text that somebody rendered of it.
    return row.get("segments") is not None or (row.get("text") is not None and not _says(row))


def _says(row: Mapping[str, Any]) -> bool:
    return any(all(row.get(key) is not None for key in kind) for kind in CONVERSATIONS)


def read_messages(row: Mapping[str, Any]) -> Said:
    """Return the conversation of a row with messages, or with a prompt and its completion.

    A prompt that is a text is said by the user, a completion that is a text by the assistant. A row of another format
    is converted.

    Raises:
        UserError: it has no such fields, or one of another kind.
    """
    return _said(own_row(dict(row)))


def _said(row: Mapping[str, Any]) -> Said:
    if "messages" in row:
        if not isinstance(row["messages"], list):
            raise invalid("messages", row["messages"], "a list of messages")
        return Said(row["messages"], 0, row.get("tools"))
    if "prompt" not in row or "completion" not in row:
        raise invalid("row", sorted(map(str, row)), EXPECTED)
    prompt, completion = _turns(row, "prompt", "user"), _turns(row, "completion", "assistant")
    return Said([*prompt, *completion], len(prompt), row.get("tools"))


def chosen_messages(messages: Sequence[CheckedMessage], learned_from: int, what: TrainOnWhat) -> set[int]:
    """Return the indices of the messages that are learned.

    Raises:
        UserError: `trainable` flags are missing or too many, no message is of the kind that `what` asks for, or `what`
            asks for more of a prompt and its completion than the completion.
    """
    if learned_from and what not in _OF_COMPLETIONS:
        expected = f"one of {', '.join(_OF_COMPLETIONS)}: of a prompt and its completion only the latter is learned"
        raise invalid("train_on_what", what.value, expected)
    # What belongs to the prompt is never learned, whatever `what` chooses.
    for index, message in enumerate(messages[:learned_from]):
        if message.learned and message.trainable is None:
            raise invalid(f"prompt[{index}].weight", 1, "0 or none: a prompt is never learned")
    chosen = {index for index in trained_messages(messages, what) if index >= learned_from}
    if learned_from and not chosen:
        raise invalid("completion", "no message of the assistant", "one to learn from, whose weight is not 0")
    return chosen


def _turns(row: Mapping[str, Any], field: str, role: str) -> list[Mapping[str, Any]]:
    value = row[field]
    if isinstance(value, str):
        if not value.strip():
            raise invalid(field, value, "a text that is not empty")
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid(field, value, "a text, or a list of messages")
    return value
