"""A renderer for any model: built from the tokenizer's own chat template.

The template is rendered as text, whole, and only then encoded, so that the tokens are the template's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise, takewhile
from typing import Any

from tinsmith.client.tokenizer.joints import Place
from tinsmith.cookbook.notices import warn_once
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
from tinsmith.cookbook.renderers.messages import CheckedMessage
from tinsmith.cookbook.renderers.template.template_abilities import ANSWER, QUESTION, THOUGHT, find_abilities
from tinsmith.cookbook.renderers.template.template_reading import find_form
from tinsmith.cookbook.renderers.template.template_spans import Span, Spans
from tinsmith.cookbook.renderers.template.template_text import Marks, TemplateText
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat, parse_train_on_what, trained_messages
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.model_input import ModelInput


class TemplateRenderer(Renderer):
    """`chat_template`: whatever the tokenizer's chat template says.

    What it has a place for, how it ends turns and how it writes thinking and calls is found by letting it write a few
    conversations; what it would leave out is refused.

    Attributes:
        abilities: what the template has a place for.
        goes_on: whether a prompt begins as the template's answers do.
    """

    def __init__(self, tokenizer: Any, name: str = "chat_template") -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.encoder = PieceEncoder(tokenizer)
        self._template = TemplateText(tokenizer, self.encoder)
        self.abilities = find_abilities(self._template)
        end, later_end, call_end = self._find_ends()
        # What an answer follows, as every prompt ends.
        self._before = [Piece(self._template.render(self._asked(), prompt=True))]
        opening = self._find_opening()
        self._header = opening.partition("<think>")[0]
        # Nobody's words can spell what opens an answer, if there is a control token in it.
        openings = "|".join(re.escape(text) for text in (opening, self._header))
        self._openings = re.compile(openings) if self.encoder.find_control(self._header) else None
        self._later_end = later_end
        self._closers = frozenset((end, later_end, call_end))
        self._ends = {self.encoder.control_id(call_end, name): TurnEnd.TOOL_MARKER}
        self._ends[self.encoder.control_id(end, name)] = TurnEnd.MARKER
        self._form = find_form(self._said, self.abilities, self.encoder)
        self._try_two_turns()
        self.has_extension_property &= end == later_end

    def check(
        self, messages: Conversation, tools: Tools = None, *, train_on_what: TrainOnWhat | str | None = None
    ) -> list[CheckedMessage]:
        checked = super().check(messages, tools, train_on_what=train_on_what)
        able = self.abilities
        if tools and not able.tools:
            raise invalid("tools", [tool["function"]["name"] for tool in tools], "none: the chat template shows none")
        for index, message in enumerate(checked):
            field = f"messages[{index}]"
            if message.tool_calls and able.arguments is None:
                names = [call.name for call in message.tool_calls]
                raise invalid(f"{field}.tool_calls", names, "none: the chat template leaves them out")
            if message.tool_calls and able.calls_need_tools and not tools and message.tokens is None:
                names = [call.name for call in message.tool_calls]
                raise invalid(
                    f"{field}.tool_calls", names, "tools beside them: without, the chat template shows no calls"
                )
            if message.role == "tool" and not able.results:
                raise invalid(f"{field}.role", "tool", "no results: the chat template leaves them out")
            shown = able.thinking is not None and message.role == "assistant"
            if message.thinking and not shown and message.tokens is None:
                raise invalid(f"{field}.reasoning_content", message.thinking, "none: the chat template leaves it out")
        return checked

    def build_generation_prompt(
        self, messages: Conversation, prefill: str | None = None, *, tools: Tools = None
    ) -> ModelInput:
        pieces, _ = self._render(messages, self.check(messages, tools), tools, set(), prompt=True)
        return ModelInput.from_ints(self.encoder.encode(pieces) + self.encoder.encode_prefill(prefill, self._before))

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
        if what is TrainOnWhat.ALL_TOKENS:
            pieces, _ = self._render(messages, checked, tools, set(), prompt=False)
            weights = [1.0] * len(pieces)
        else:
            pieces, weights = self._render(messages, checked, tools, chosen, prompt=False)
        return SupervisedExample(*self.encoder.encode_weighted(pieces, weights))

    def parse_response(self, tokens: Sequence[int], *, prefill: str | None = None) -> ParsedResponse:
        whole = self.encoder.encode_prefill(prefill, self._before) + sampled_ids(tokens)
        said, end = cut_at(whole, self._ends)
        text, mark = self._spell(said)
        message = without(self._form.read(text), mark)
        message["tokens"] = whole
        return ParsedResponse(message, end)

    def get_stop_sequences(self) -> list[int] | list[str]:
        return list(self._ends)

    def _render(
        self, messages: Conversation, checked: Sequence[CheckedMessage], tools: Tools, chosen: set[int], *, prompt: bool
    ) -> tuple[list[Piece], list[float]]:
        """Return a conversation's pieces and their weights: 1 on what the authors of the chosen messages say."""
        marks = Marks.outside(messages, tools)
        break_up = self._template.break_up
        raw = [self.abilities.said(dict(m), c) for m, c in zip(messages, checked, strict=True)]
        said = [break_up(message, marks.break_, message["role"] == "assistant") for message in raw]
        shown = break_up(list(tools), marks.break_) if tools else None
        spans = Spans(self._template, self.encoder, said, shown, marks, self._closers, self._header, prompt=prompt)
        pieces: list[Piece] = []
        weights: list[float] = []
        position = 0
        for index, (start, end) in self._places(spans, checked, chosen):
            message = checked[index]
            before = self._cut(spans.text[position:start], marks.break_)
            if message.tokens is None:
                own = cut_at_breaks(spans.text[start:end], marks.break_, opens=message.role == "assistant")
                unsaid: list[Piece] = []
            else:
                own, unsaid = self._sampled(index, message, spans, spans.text[start:end])
            weight = 1.0 if index in chosen else 0.0
            pieces += [*before, *own, *unsaid]
            weights += [0.0] * len(before) + [weight] * len(own) + [0.0] * len(unsaid)
            position = end
        rest = self._cut(spans.text[position:], marks.break_)
        return pieces + rest, weights + [0.0] * len(rest)

    def _places(self, spans: Spans, checked: Sequence[CheckedMessage], chosen: set[int]) -> list[tuple[int, Span]]:
        """Return where messages stand that are learned or were sampled, in the order of the text.

        That order can be another: some templates move messages. Answers that are neither are asked for too where
        `_cut` cannot see their beginning.
        """
        needed = chosen | {index for index, message in enumerate(checked) if message.tokens is not None}
        found: list[tuple[int, Span]] = []
        for index, message in enumerate(checked):
            if index in needed:
                found.append((index, spans.of(index)))
            elif message.role == "assistant" and self._openings is None:
                with suppress(UserError):  # nobody needs its place: the text is right without
                    found.append((index, spans.of(index)))
        places: list[tuple[int, Span]] = []
        for index, (start, end) in sorted(found, key=lambda place: place[1]):
            if not places or places[-1][1][1] <= start:
                places.append((index, (start, end)))
            elif index in needed:
                raise spans.hidden(index)
        return places

    def _cut(self, text: str, mark: str) -> list[Piece]:
        """Cut a text between places at the marks and behind what opens an answer: no token goes on from there."""
        ends = [match.end() for match in self._openings.finditer(text)] if self._openings is not None else []
        cuts = [0, *ends, len(text)]
        parts = [text[start:end] for start, end in pairwise(cuts)]
        return [p for i, part in enumerate(parts) for p in cut_at_breaks(part, mark, opens=i > 0)]

    def _sampled(self, index: int, message: CheckedMessage, spans: Spans, text: str) -> tuple[list[Piece], list[Piece]]:
        """Return what was sampled, as the template has such a turn at this place, and an end marker if it has none."""
        ids = list(message.tokens or ())
        closer = next((c for c in self._closers if text.endswith(c)), None)
        field = self.abilities.thinking
        kept = self._keeps_thinking if field is None else not message.thinking or spans.shows(index, field)
        if not kept:
            ids = self._without_thinking(ids, index, thinks=bool(message.thinking))
        if ids and ids[-1] in self._ends:
            if closer == self._later_end and self._ends[ids[-1]] is TurnEnd.MARKER:
                ids[-1] = self.encoder.control_id(self._later_end, self.name)
            return [Piece("", ids=tuple(ids))], []
        return [Piece("", ids=tuple(ids))], [] if closer is None else [Piece(closer)]

    def _without_thinking(self, ids: list[int], index: int, *, thinks: bool) -> list[int]:
        closing = self.encoder.control_id("</think>", self.name) if self.encoder.has_control("</think>") else None
        if closing in ids:
            ids = ids[ids.index(closing) + 1 :]
            while ids and not self.encoder.decode(ids[:1]).strip("\n"):
                ids = ids[1:]
            return ids
        if thinks:
            raise invalid(
                f"messages[{index}].tokens",
                f"{len(ids)} ids",
                "none: the chat template leaves the thinking of this turn out, and no mark shows where it ends in the "
                "ids; leave `tokens` out, or name the renderer of the model's family",
            )
        return ids

    def _asked(self, *others: dict[str, Any]) -> list[dict[str, Any]]:
        return self.abilities.probe.asked(*others)

    def _find_ends(self) -> tuple[str, str, str]:
        """Return the control tokens that end an answer, an earlier answer, and a turn of calls."""
        ends: list[str] = []
        for messages in (self._asked(ANSWER), self._asked(ANSWER, QUESTION)):
            found = self.encoder.find_control(self._template.render(messages).partition(ANSWER["content"])[2])
            if not found:
                raise invalid(
                    "tokenizer.chat_template", "no control token after an answer", "a template that ends turns with one"
                )
            ends.append(found[0].group())
        if self.abilities.arguments is None:
            return ends[0], ends[1], ends[0]
        text = self._template.render(self._asked(self.abilities.call()), self.abilities.probe.call_tools)
        found = self.encoder.find_control(text)
        return ends[0], ends[1], found[-1].group()

    def _find_opening(self) -> str:
        """Return what a prompt ends with and a question does not."""
        asked = self._asked()
        prompt, question = self._template.render(asked, prompt=True), self._template.render(asked)
        if prompt.startswith(question):
            return prompt.removeprefix(question)
        # The template ends what it does not go on with, perhaps in a control token.
        ids = [self.encoder.encode([Piece(text)]) for text in (prompt, question)]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False)))
        follows_control = shared == 0 or self.encoder.control_text(ids[0][shared - 1]) is not None
        return self.encoder.decode(ids[0][shared:], Place.CONTROL if follows_control else Place.TEXT)

    def _said(self, messages: list[dict[str, Any]]) -> str:
        """Return what the last message says, without its end marker."""
        tools = self.abilities.probe.call_tools if messages[-1].get("tool_calls") else None
        marks = Marks.outside(messages, tools)
        spans = Spans(self._template, self.encoder, messages, tools, marks, self._closers, self._header)
        start, end = spans.of(len(messages) - 1)
        text = spans.text[start:end]
        return next((text.removesuffix(c) for c in self._closers if text.endswith(c)), text)

    def _try_two_turns(self) -> None:
        """Find out how prompts go on, and whether an earlier answer keeps its thinking."""
        prompt = self._template.render(self._asked(), prompt=True)
        self.goes_on = self._template.render(self._asked(ANSWER)).startswith(prompt)
        if not self.goes_on:
            warn_once(
                f"prompt of a chat template: {prompt}",
                "chat_template: the template's prompts do not begin as its answers do, so that what is learned is not "
                f"what will be sampled: a prompt ends in {prompt[-20:]!r}. Name the renderer of the model's family",
            )
        field = self.abilities.thinking
        written = {"content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER['content']}"}
        answer = ANSWER | (written if field is None else {field: THOUGHT})
        later = self._template.render(self._asked(answer, QUESTION), prompt=True)
        self._keeps_thinking = THOUGHT in later
        self.has_extension_property = self._keeps_thinking and self.goes_on and later.startswith(prompt)

    def _spell(self, tokens: list[int]) -> tuple[str, str]:
        """Return the text of ids with a mark inside what only looks like a control token, and the mark."""
        mark = Marks.outside(self.encoder.decode(tokens, Place.TEXT)).break_
        parts: list[str] = []
        run: list[int] = []
        place = self.encoder.place_behind(self._before)
        for token in [*tokens, None]:
            control = None if token is None else self.encoder.control_text(token)
            if token is not None and control is None:
                run.append(token)
                continue
            parts.append(self._template.break_up(self.encoder.decode(run, place), mark))
            parts.append(control or "")
            run, place = [], Place.CONTROL
        return "".join(parts), mark


def cut_at_breaks(text: str, mark: str, *, opens: bool) -> list[Piece]:
    """Cut a text at the marks, which go; no token spans a mark, nor the beginning of what opens something."""
    pieces: list[Piece] = []
    for number, part in enumerate(text.split(mark)):
        if part:
            pieces.append(Piece(part, seam=opens or number > 0))
            opens = False
    return pieces


def without(value: Any, mark: str) -> Any:
    """Return a message without the mark."""
    if isinstance(value, dict):
        return {without(k, mark): without(v, mark) for k, v in value.items()}
    if isinstance(value, list):
        return [without(item, mark) for item in value]
    return value.replace(mark, "") if isinstance(value, str) else value
