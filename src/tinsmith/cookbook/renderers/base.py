"""What every renderer does: conversations to tokens and weights, and sampled tokens back to messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from operator import index
from typing import Any, NamedTuple

from tinsmith.cookbook.renderers.messages import CheckedMessage, Message, check_messages, flagged
from tinsmith.cookbook.renderers.tools import ToolSpec, check_tools
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat, parse_train_on_what, trained_messages
from tinsmith.types.errors import invalid
from tinsmith.types.model_input import ModelInput

Conversation = Sequence[Mapping[str, Any]] | Sequence[Message]
Tools = Sequence[ToolSpec] | None


class SupervisedExample(NamedTuple):
    """A rendered conversation: token ids, and one weight per token that says whether to learn it."""

    tokens: list[int]
    weights: list[float]


class TurnEnd(StrEnum):
    """Why a sampled turn ended: the end marker, the marker after which a tool is to answer, or neither was reached."""

    MARKER = "marker"
    TOOL_MARKER = "tool_marker"
    CUT_OFF = "cut_off"

    @property
    def is_clean(self) -> bool:
        """Whether the turn was ended, not cut off."""
        return self is not TurnEnd.CUT_OFF


class ParsedResponse(NamedTuple):
    """A sampled turn as a message that holds its tokens too, and why the turn ended."""

    message: Message
    end: TurnEnd


class Renderer(ABC):
    """One chat format with one tokenizer.

    A generation prompt is a prefix of the training example of the same conversation with its answer, so that the
    model is trained on exactly what it will see when sampled.

    Attributes:
        name: in the registry.
        tokenizer: the one it was made with.
        has_extension_property: whether the prompt of turn k + 1 begins with the prompt of turn k and the tokens that
            were sampled after it, whatever they were; not so where a format drops the thinking of earlier turns.
    """

    name: str
    tokenizer: Any
    has_extension_property: bool = False

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        """Return a conversation's messages, checked, and that this format can say them and its tools.

        Args:
            messages: the conversation.
            tools: that the assistant may call.
            train_on_what: what will be learned of it, so that missing `trainable` flags and conversations without an
                answer are found too; None asks for no more than a conversation.

        Raises:
            UserError: the conversation or a tool is not well formed, or holds what the format has no place for.
        """
        check_tools(tools)
        checked = check_messages(messages)
        if train_on_what is not None:
            trained_messages(checked, parse_train_on_what(train_on_what))
        return checked

    @abstractmethod
    def build_generation_prompt(
        self, messages: Conversation, prefill: str | None = None, *, tools: Tools = None
    ) -> ModelInput:
        """Return the tokens after which the model speaks as the assistant.

        Args:
            messages: the conversation so far.
            prefill: beginning of the answer, given to the model as already said, as the format spells it: a control
                token in it (`<think>`) is one. Not for the words of others.
            tools: that the assistant may call.

        Raises:
            UserError: as `check`.
        """

    @abstractmethod
    def build_supervised_example(
        self,
        messages: Conversation,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        *,
        tools: Tools = None,
    ) -> SupervisedExample:
        """Return a conversation's tokens and weights, of equal length and not shifted, as its chat template has it.

        Raises:
            UserError: as `check`.
        """

    def build_supervised_examples(
        self,
        messages: Conversation,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        *,
        tools: Tools = None,
    ) -> list[SupervisedExample]:
        """Return examples in which every answer that is learned stands in the context in which it would be sampled.

        One example says that of a renderer with the extension property. Otherwise each answer that is learned ends an
        example of its own; each other message that is learned is so in the first example that holds it. ALL_TOKENS is
        about text, not turns: one example.

        Raises:
            UserError: as `check`.
        """
        what = parse_train_on_what(train_on_what)
        if self.has_extension_property or what is TrainOnWhat.ALL_TOKENS:
            return [self.build_supervised_example(messages, what, tools=tools)]
        checked = self.check(messages, tools)
        chosen = trained_messages(checked, what)
        ends = [place + 1 for place in sorted(chosen) if checked[place].role == "assistant"]
        if not ends or max(chosen) >= ends[-1]:
            ends.append(len(messages))
        examples: list[SupervisedExample] = []
        begin = 0
        for end in ends:
            said = [flagged(m, i >= begin and i in chosen) for i, m in enumerate(messages[:end])]
            examples.append(self.build_supervised_example(said, TrainOnWhat.CUSTOMIZED, tools=tools))
            begin = end
        return examples

    @abstractmethod
    def parse_response(self, tokens: Sequence[int], *, prefill: str | None = None) -> ParsedResponse:
        """Return the message that sampled tokens spell, and why it ended.

        The message holds the tokens, so that it goes on in a conversation as it was sampled.

        Args:
            tokens: sampled, the end marker included where one was reached.
            prefill: the one that the prompt ended with; the message begins with it.

        Raises:
            UserError: `tokens` are no ids, or `prefill` is no text.
        """

    @abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Return what ends a turn, for `SamplingParams(stop=...)`."""


def sampled_ids(tokens: Sequence[int]) -> list[int]:
    """Return sampled ids as plain whole numbers, whatever array they come in.

    Raises:
        UserError: they are no ids.
    """
    try:
        ids = [index(token) for token in tokens]
    except TypeError:
        raise invalid("tokens", tokens, "a list of token ids") from None
    if min(ids, default=0) < 0:
        raise invalid("tokens", min(ids), "token ids, which are not negative")
    return ids


def cut_at(tokens: Sequence[int], ends: Mapping[int, TurnEnd]) -> tuple[list[int], TurnEnd]:
    """Return the tokens before the first that ends a turn, and what that one says."""
    for position, token in enumerate(tokens):
        if token in ends:
            return list(tokens[:position]), ends[token]
    return list(tokens), TurnEnd.CUT_OFF
