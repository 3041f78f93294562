"""Which messages of a conversation are learned."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from tinsmith.cookbook.renderers.messages import CheckedMessage
from tinsmith.types.errors import invalid


class TrainOnWhat(StrEnum):
    """Which tokens of a conversation carry weight 1; headers of turns never do, except with ALL_TOKENS."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"


_NEEDED = {
    TrainOnWhat.LAST_ASSISTANT_MESSAGE: "at least one message of the assistant to learn from",
    TrainOnWhat.ALL_ASSISTANT_MESSAGES: "at least one message of the assistant to learn from",
    TrainOnWhat.LAST_ASSISTANT_TURN: "a message of the assistant after the last one of the user",
    TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES: "at least one message of the user or the system to learn from",
}


def parse_train_on_what(value: TrainOnWhat | str) -> TrainOnWhat:
    """Read a `TrainOnWhat` from its value.

    Raises:
        UserError: no such value.
    """
    try:
        return TrainOnWhat(value)
    except ValueError:
        raise invalid("train_on_what", value, f"one of {', '.join(TrainOnWhat)}") from None


def trained_messages(messages: Sequence[CheckedMessage], what: TrainOnWhat) -> set[int]:
    """Return the indices of the messages that `what` trains; a message's own `weight` overrules it.

    Raises:
        UserError: `trainable` flags are missing with CUSTOMIZED, or present without it; no message is of the kind that
            `what` trains; or a weight contradicts a choice other than the default.
    """
    customized = what is TrainOnWhat.CUSTOMIZED
    for index, message in enumerate(messages):
        flag = message.learned if customized else message.trainable
        if (flag is None) == customized:
            expected = "true or false" if customized else f"none with train_on_what={what.value}"
            raise invalid(f"messages[{index}].trainable", flag, expected)
    chosen = _choose(messages, what)
    if not chosen and what in _NEEDED:
        roles = ", ".join(message.role for message in messages)
        raise invalid("messages", f"roles {roles}", f"{_NEEDED[what]} (train_on_what={what.value})")
    return chosen if customized else _overruled(messages, chosen, what)


def _overruled(messages: Sequence[CheckedMessage], chosen: set[int], what: TrainOnWhat) -> set[int]:
    """Return a choice without the messages of weight 0, and with those of weight 1."""
    for index, message in enumerate(messages):
        if message.learned is None or message.learned == (index in chosen):
            continue
        # Everything between the messages is learned, too: a hole in that would be no longer all tokens. And where a
        # setting asks for less than all answers, it and the weight want two things.
        if what is TrainOnWhat.ALL_TOKENS or (message.learned and what is not TrainOnWhat.ALL_ASSISTANT_MESSAGES):
            expected = f"none, or {int(not message.learned)}, with train_on_what={what.value}"
            raise invalid(f"messages[{index}].weight", int(message.learned), expected)
        chosen = chosen | {index} if message.learned else chosen - {index}
    return chosen


def _choose(messages: Sequence[CheckedMessage], what: TrainOnWhat) -> set[int]:
    roles = [message.role for message in messages]
    assistants = [index for index, role in enumerate(roles) if role == "assistant"]
    match what:
        case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            return set(assistants[-1:])
        case TrainOnWhat.LAST_ASSISTANT_TURN:
            last_question = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
            return {index for index in assistants if index > last_question}
        case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            return set(assistants)
        case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
            return {index for index, role in enumerate(roles) if role in ("user", "system")}
        case TrainOnWhat.CUSTOMIZED:
            return {index for index, message in enumerate(messages) if message.learned}
        case TrainOnWhat.ALL_MESSAGES | TrainOnWhat.ALL_TOKENS:
            return set(range(len(roles)))
