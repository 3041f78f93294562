"""What every renderer does: conversations to tokens and weights, and sampled tokens back to messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message, check_messages
from tinsmith.types.errors import invalid
from tinsmith.types.model_input import ModelInput

Conversation = Sequence[Mapping[str, Any]] | Sequence[Message]


class TrainOnWhat(StrEnum):
    """Which tokens of a conversation carry weight 1; headers of turns never do, except with ALL_TOKENS."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"


class SupervisedExample(NamedTuple):
    """A rendered conversation: token ids, and one weight per token that says whether to learn it."""

    tokens: list[int]
    weights: list[float]


class TurnEnd(StrEnum):
    """How a sampled turn ended."""

    MARKER = "marker"
    CUT_OFF = "cut_off"


class ParsedResponse(NamedTuple):
    """A sampled turn as a message, and whether its end marker was reached."""

    message: Message
    end: TurnEnd


class Renderer(ABC):
    """One chat format with one tokenizer.

    A generation prompt is a prefix of the training example of the same conversation with its answer, so that the
    model is trained on exactly what it will see when sampled.
    """

    name: str

    def check(self, messages: Conversation) -> list[CheckedMessage]:
        """Return a conversation's messages, checked, and that this format can say them.

        Raises:
            UserError: the conversation is not well formed, or holds what the format has no place for.
        """
        return check_messages(messages)

    @abstractmethod
    def build_generation_prompt(self, messages: Conversation, prefill: str | None = None) -> ModelInput:
        """Return the tokens after which the model speaks as the assistant.

        Args:
            messages: the conversation so far.
            prefill: beginning of the answer, given to the model as already said.
        """

    @abstractmethod
    def build_supervised_example(
        self, messages: Conversation, train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    ) -> SupervisedExample:
        """Return a conversation's tokens and weights, of equal length and not shifted.

        Raises:
            UserError: the conversation or `train_on_what` is not well formed.
        """

    @abstractmethod
    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        """Return the message that sampled tokens spell, and how it ended."""

    @abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Return what ends a turn, for `SamplingParams(stop=...)`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The pieces of one message; `index` is its place in the conversation, None for what belongs to no message."""

    index: int | None
    pieces: list[Piece]


class PieceRenderer(Renderer):
    """A renderer that spells each message as pieces; subclasses say which.

    Subclasses set `controls` (the tokens that the format needs, the end marker first) and write `turns` and `opening`.
    """

    controls: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.name = name
        self.encoder = PieceEncoder(tokenizer)
        self._ids = {token: self.encoder.control_id(token, name) for token in self.controls}

    @abstractmethod
    def turns(self, messages: Sequence[CheckedMessage], *, generating: bool) -> list[Turn]:
        """Return the conversation's turns; `generating` when an answer will be sampled after them."""

    @abstractmethod
    def opening(self) -> list[Piece]:
        """Return the pieces that open the assistant's turn."""

    @property
    def end_marker(self) -> str:
        """The control token that ends a turn."""
        return self.controls[0]

    def build_generation_prompt(self, messages: Conversation, prefill: str | None = None) -> ModelInput:
        turns = self.turns(self.check(messages), generating=True)
        pieces = [piece for turn in turns for piece in turn.pieces] + self.opening()
        if prefill:
            pieces.append(Piece(prefill, data=True, seam=True))
        return ModelInput.from_ints(self.encoder.encode(pieces, [0.0] * len(pieces))[0])

    def build_supervised_example(
        self, messages: Conversation, train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    ) -> SupervisedExample:
        what = parse_train_on_what(train_on_what)
        checked = self.check(messages)
        chosen = trained_messages(checked, what)
        pieces: list[Piece] = []
        weights: list[float] = []
        for turn in self.turns(checked, generating=False):
            for piece in turn.pieces:
                pieces.append(piece)
                learned = what is TrainOnWhat.ALL_TOKENS or (piece.spoken and turn.index in chosen)
                weights.append(1.0 if learned else 0.0)
        return SupervisedExample(*self.encoder.encode(pieces, weights))

    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        said, end = cut_at(list(tokens), self.get_stop_sequences())
        return ParsedResponse(self.read_answer(self.encoder.decode(said)), end)

    def read_answer(self, text: str) -> Message:
        """Return the message that the text of a turn, without its end marker, spells."""
        return {"role": "assistant", "content": text}

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self._ids[self.end_marker]]

    def check(self, messages: Conversation) -> list[CheckedMessage]:
        checked = [self.adapt(message) for message in check_messages(messages)]
        for index, message in enumerate(checked):
            if message.tool_calls or message.role == "tool":
                field = "tool_calls" if message.tool_calls else "role"
                raise invalid(
                    f"messages[{index}].{field}",
                    list(message.tool_calls) or message.role,
                    f"no tools: renderer {self.name!r} has none; 'chat_template' has those of the model's template",
                )
            if message.thinking is not None and not self.accepts_thinking(checked, index):
                raise invalid(
                    f"messages[{index}].reasoning_content",
                    message.thinking,
                    f"none: renderer {self.name!r} has no place for thinking in this turn",
                )
        return checked

    def adapt(self, message: CheckedMessage) -> CheckedMessage:
        """Return a message as the format reads it."""
        return message

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        """Whether the format has a place for the thinking of a message."""
        return False


def cut_at(tokens: list[int], stops: list[int] | list[str]) -> tuple[list[int], TurnEnd]:
    """Return the tokens before the first stop token, and whether there was one."""
    for position, token in enumerate(tokens):
        if token in stops:
            return tokens[:position], TurnEnd.MARKER
    return tokens, TurnEnd.CUT_OFF


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
    """Return the indices of the messages that `what` trains.

    Raises:
        UserError: `trainable` flags are missing with CUSTOMIZED, or present without it.
    """
    for index, message in enumerate(messages):
        if (message.trainable is None) == (what is TrainOnWhat.CUSTOMIZED):
            expected = "true or false" if message.trainable is None else f"none with train_on_what={what.value}"
            raise invalid(f"messages[{index}].trainable", message.trainable, expected)
    roles = [message.role for message in messages]
    assistants = [index for index, role in enumerate(roles) if role == "assistant"]
    last_question = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    chosen = {
        TrainOnWhat.LAST_ASSISTANT_MESSAGE: assistants[-1:],
        TrainOnWhat.LAST_ASSISTANT_TURN: [index for index in assistants if index > last_question],
        TrainOnWhat.ALL_ASSISTANT_MESSAGES: assistants,
        TrainOnWhat.ALL_MESSAGES: range(len(roles)),
        TrainOnWhat.ALL_TOKENS: range(len(roles)),
        TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES: [i for i, role in enumerate(roles) if role in ("user", "system")],
        TrainOnWhat.CUSTOMIZED: [index for index, message in enumerate(messages) if message.trainable],
    }
    return set(chosen[what])
