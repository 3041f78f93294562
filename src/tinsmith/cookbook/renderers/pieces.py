"""Renderers that spell each message as pieces: the part of the work that their formats share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.cookbook.renderers.base import (
    Conversation,
    ParsedResponse,
    Renderer,
    SupervisedExample,
    Tools,
    TurnEnd,
    cut_at,
    sampled_ids,
)
from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message
from tinsmith.cookbook.renderers.tools import ToolSpec, check_tools
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat, parse_train_on_what, trained_messages
from tinsmith.types.errors import invalid
from tinsmith.types.model_input import ModelInput


@dataclass(frozen=True, slots=True)
class Turn:
    """The pieces of one message; `index` is its place in the conversation, None for what belongs to no message."""

    index: int | None
    pieces: list[Piece]


class PieceRenderer(Renderer):
    """A renderer that spells each message as pieces; subclasses say which.

    Subclasses set the attributes below and write `turns`, `opening` and, for more than plain text, `read_answer`.

    Attributes:
        controls: the tokens that the format needs, the end marker first.
        tool_markers: those of `controls` that end a turn for a tool to answer.
        has_tools: whether the format has a place for tools, their calls and their results.
    """

    controls: tuple[str, ...] = ()
    tool_markers: tuple[str, ...] = ()
    has_tools: bool = False
    has_extension_property = True

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.encoder = PieceEncoder(tokenizer)
        self.ids = {token: self.encoder.control_id(token, name) for token in self.controls}
        self.ends = {self.ids[token]: TurnEnd.MARKER for token in self.controls[:1]}
        self.ends |= {self.ids[token]: TurnEnd.TOOL_MARKER for token in self.tool_markers}

    @abstractmethod
    def turns(self, messages: Sequence[CheckedMessage], tools: Sequence[ToolSpec], *, generating: bool) -> list[Turn]:
        """Return the conversation's turns.

        Args:
            messages: checked.
            tools: checked; empty where there are none.
            generating: an answer will be sampled after them.
        """

    @abstractmethod
    def opening(self) -> list[Piece]:
        """Return the pieces that open the assistant's turn."""

    @property
    def end_marker(self) -> str:
        """The control token that ends a turn."""
        return self.controls[0]

    def said(self, message: CheckedMessage, pieces: Sequence[Piece], end_marker: str | None = None) -> list[Piece]:
        """Return what a message's author says: the ids that were sampled if there are any, else `pieces` and a marker.

        A sampled turn that was cut off is ended too, by a marker that nobody learns.
        """
        if message.tokens is not None:
            return self.sampled(message.tokens)
        return [*pieces, Piece(end_marker or self.end_marker, spoken=True)]

    def sampled(self, tokens: Sequence[int]) -> list[Piece]:
        """Return the piece of sampled ids, and the end marker where they were cut off."""
        piece = Piece("", spoken=True, ids=tuple(tokens))
        return [piece] if tokens and tokens[-1] in self.ends else [piece, Piece(self.end_marker)]

    def build_generation_prompt(
        self, messages: Conversation, prefill: str | None = None, *, tools: Tools = None
    ) -> ModelInput:
        turns = self.turns(self.check(messages, tools), check_tools(tools), generating=True)
        opening = self.opening()
        pieces = [piece for turn in turns for piece in turn.pieces] + opening
        return ModelInput.from_ints(self.encoder.encode(pieces) + self.encoder.encode_prefill(prefill, opening))

    def build_supervised_example(
        self,
        messages: Conversation,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        *,
        tools: Tools = None,
    ) -> SupervisedExample:
        what = parse_train_on_what(train_on_what)
        checked = self.check(messages, tools)
        chosen = trained_messages(checked, what)
        pieces: list[Piece] = []
        weights: list[float] = []
        for turn in self.turns(checked, check_tools(tools), generating=False):
            for piece in turn.pieces:
                pieces.append(piece)
                learned = what is TrainOnWhat.ALL_TOKENS or (piece.spoken and turn.index in chosen)
                weights.append(1.0 if learned else 0.0)
        return SupervisedExample(*self.encoder.encode_weighted(pieces, weights))

    def parse_response(self, tokens: Sequence[int], *, prefill: str | None = None) -> ParsedResponse:
        whole = self.encoder.encode_prefill(prefill, self.opening()) + sampled_ids(tokens)
        answer, end = cut_at(whole, self.ends)
        message = self.read_answer(answer)
        message["tokens"] = whole
        return ParsedResponse(message, end)

    def read_answer(self, tokens: list[int]) -> Message:
        """Return the message that the ids of a turn, without its end marker, spell."""
        content = self.encoder.decode(tokens, self.encoder.place_behind(self.opening()))
        return {"role": "assistant", "content": content}

    def get_stop_sequences(self) -> list[int] | list[str]:
        return list(self.ends)

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = [self.adapt(message) for message in super().check(messages, tools, train_on_what=train_on_what)]
        if tools and not self.has_tools:
            raise invalid("tools", [tool["function"]["name"] for tool in tools], self._no_tools())
        for index, message in enumerate(checked):
            if not self.has_tools and (message.tool_calls or message.role == "tool"):
                field = "tool_calls" if message.tool_calls else "role"
                value = [call.name for call in message.tool_calls] or message.role
                raise invalid(f"messages[{index}].{field}", value, self._no_tools())
            if message.thinking and not self.accepts_thinking(checked, index):
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

    def _no_tools(self) -> str:
        return f"no tools: renderer {self.name!r} has none; 'chat_template' has those of the model's template"
