"""What a row of training data may be, and which of its messages are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.renderers.messages import CheckedMessage, check_messages
from tinsmith.cookbook.renderers.tools import check_tools
from tinsmith.cookbook.renderers.train_on_what import parse_train_on_what, trained_messages
from tinsmith.types.errors import invalid

Row = dict[str, Any]
RowCheck = Callable[[Any], Row]
KINDS: tuple[tuple[str, ...], ...] = (("messages",), ("text",), ("prompt", "completion"))
EXPECTED = 'either "messages", "text", or "prompt" and "completion"'
# Columns of other formats, and what is to be done with them.
_FOREIGN = {
    "conversations": '"conversations" as "messages", with "from" as "role" (human: user, gpt: assistant) and "value" '
    'as "content"',
    "instruction": '"instruction" (and "input") as "prompt", "output" as "completion"',
    "response": '"response" as "completion"',
    "chosen": '"chosen" as "completion" to learn it; the recipe preference compares it with "rejected"',
}
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


def row_check(renderer: Renderer | None = None, train_on_what: TrainOnWhat | str | None = None) -> RowCheck:
    """Return `check_row` for a renderer and what will be learned."""
    return partial(check_row, renderer=renderer, train_on_what=train_on_what)


def check_row(row: Any, renderer: Renderer | None = None, train_on_what: TrainOnWhat | str | None = None) -> Row:
    """Return a row that can be trained on.

    Args:
        row: `{"messages": [...]}`, `{"text": "..."}`, or `{"prompt": ..., "completion": ...}`, each of the latter a
            text or a list of messages; other keys are kept as they are.
        renderer: whose format has to be able to say it; None asks for a well-formed one only.
        train_on_what: which of its messages are to be learned; None leaves flags of messages unchecked.

    Raises:
        UserError: it is neither a conversation with an answer in it nor a text, or the renderer cannot say it.
    """
    if not isinstance(row, dict):
        raise invalid("row", row, f"an object with {EXPECTED}")
    # Exactly one: a row with messages and a text would leave open which of them is learned.
    if sum(all(key in row for key in kind) for kind in KINDS) != 1:
        raise invalid("row", sorted(map(str, row)), expected_of(row))
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise invalid("text", row["text"], "a text that is not empty")
        return row
    said = read_messages(row)
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
    return row


def expected_of(columns: Iterable[Any]) -> str:
    """Return what is expected in the place of columns that are no row, with what to do about those of other formats."""
    return EXPECTED + "".join(f" (write {how})" for name, how in _FOREIGN.items() if name in columns)


def read_messages(row: Mapping[str, Any]) -> Said:
    """Return the conversation of a row with messages, or with a prompt and its completion.

    A prompt that is a text is said by the user, a completion that is a text by the assistant.

    Raises:
        UserError: it has no such fields, or one of another kind.
    """
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
    chosen = {index for index in trained_messages(messages, what) if index >= learned_from}
    if learned_from and not chosen:
        raise invalid("completion", "no message of the assistant", "one to learn from")
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
