"""Answers read back the way a chat template writes them: one that it wrote shows where its parts stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from tinsmith.cookbook.renderers.encoding import PieceEncoder
from tinsmith.cookbook.renderers.families.qwen3_5 import PYTHON_VALUES, read_tagged_call
from tinsmith.cookbook.renderers.messages import Message
from tinsmith.cookbook.renderers.template.template_text import (
    ANSWER,
    ARGUMENTS,
    NAME,
    QUESTION,
    THOUGHT,
    Abilities,
    call_message,
)
from tinsmith.cookbook.renderers.tools import UnparsedToolCall, read_arguments, to_json
from tinsmith.types.errors import UserError

# What the last message of a conversation says in a template's text, without its end marker.
Said = Callable[[list[dict[str, Any]]], str]


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template writes calls.

    Attributes:
        begin: before each call.
        end: behind each call; may be empty.
        section: what stands around all calls.
        marked: whether a control token stands before each call.
        read: makes a call of what stands between `begin` and `end`, or says why it is none.
    """

    begin: str
    end: str
    section: tuple[str, str]
    marked: bool
    read: Callable[[str], dict[str, Any] | str]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a template writes what the assistant says.

    Attributes:
        thought: before thinking.
        thought_ends: each of these can stand behind thinking.
        answer: before an answer without thinking.
        calls: None where there are none.
    """

    thought: str
    thought_ends: tuple[str, ...]
    answer: str
    calls: CallForm | None

    def read(self, text: str) -> Message:
        """Return the message that a turn spells, its end marker aside."""
        thinking: str | None = None
        if self.answer.strip() and text.startswith(self.answer):
            text = text.removeprefix(self.answer)
        elif ends := [end for end in self.thought_ends if end.strip() in text]:
            end = ends[0] if ends[0] in text else ends[0].strip()
            thinking, _, text = text.partition(end)
            for begin in (self.thought, self.thought.strip(), "<think>"):
                thinking = thinking.removeprefix(begin)
            text = text if end == ends[0] else text.lstrip("\n")
        else:
            text = text.removeprefix(self.answer)
        message = self._read_calls(text)
        if thinking is not None and thinking.strip():
            message["reasoning_content"] = thinking.strip("\n")
        return message

    def _read_calls(self, text: str) -> Message:
        form = self.calls
        plain: Message = {"role": "assistant", "content": text}
        if form is None or form.begin not in text:
            return plain
        calls: list[dict[str, Any]] = []
        unparsed: list[UnparsedToolCall] = []
        before, *said = text.split(form.begin)
        rest = [before.removesuffix(form.section[0]).rstrip("\n")]
        for part in said:
            inner, closed, after = part.rpartition(form.end) if form.end else (part, True, "")
            call = form.read(inner) if closed else "it breaks off"
            if isinstance(call, str):
                unparsed.append({"text": form.begin + part, "reason": call})
            else:
                calls.append(call)
                rest.append(after.strip("\n").removeprefix(form.section[1]))
        if not form.marked and (unparsed or rest[0].strip()):
            return plain  # nothing but its words makes it look like a call
        message: Message = {"role": "assistant", "content": "".join(rest).rstrip()}
        if calls:
            message["tool_calls"] = calls
        if unparsed:
            message["unparsed_tool_calls"] = unparsed
        return message


def find_form(said: Said, abilities: Abilities, encoder: PieceEncoder) -> AnswerForm:
    """Return how a template writes answers, found by letting it write some."""
    calls = None if abilities.arguments is None else _find_calls(said, abilities, encoder)
    answer = said([QUESTION, ANSWER]).partition(ANSWER["content"])[0]
    if abilities.thinking is None:
        # Models that think do so in these tags, whatever their template reads.
        return AnswerForm("<think>", ("</think>",), answer, calls)
    field = {abilities.thinking: THOUGHT}
    thought, _, behind = said([QUESTION, ANSWER | field]).partition(THOUGHT)
    ends = [behind.partition(ANSWER["content"])[0]]
    if abilities.arguments is not None:
        given = _arguments(abilities)
        behind = said([QUESTION, call_message(given) | field]).partition(THOUGHT)[2]
        call = said([QUESTION, call_message(given)])
        if behind.endswith(call):
            ends.append(behind.removesuffix(call))
    return AnswerForm(thought, tuple(end for end in ends if end.strip()), answer, calls)


def _arguments(abilities: Abilities) -> Any:
    return to_json(ARGUMENTS) if abilities.arguments == "text" else ARGUMENTS


def _find_calls(said: Said, abilities: Abilities, encoder: PieceEncoder) -> CallForm:
    given, shown = _arguments(abilities), to_json(ARGUMENTS)
    one = said([QUESTION, call_message(given)])
    answer = said([QUESTION, ANSWER]).partition(ANSWER["content"])[0]
    if answer.strip():
        one = one.removeprefix(answer).removeprefix(answer.rstrip())
    name, place = one.find(NAME), one.find(shown)
    if "<function=" in one and "<tool_call>" in one:
        read = partial(read_tagged_call, values=PYTHON_VALUES)
        return CallForm("<tool_call>", "</tool_call>", ("", ""), encoder.has_control("<tool_call>"), read)
    if not 0 <= name < place:
        begin = one[:name].strip()
        return CallForm(begin, "", ("", ""), bool(encoder.find_control(begin)), _cannot_read)
    before, between, behind = one[:name], one[name + len(NAME) : place], one[place + len(shown) :]
    begin, end = before, behind
    middle = _middle(said, given, shown)
    if middle is not None:
        begin = _common(before[::-1], middle[::-1])[::-1]
        end = _common(behind, middle.removesuffix(begin))
    section = before.removesuffix(begin).strip(), behind.removeprefix(end).strip()
    # Where calls are numbered, the number is part of what stands between.
    pattern = re.compile(re.sub(r"\d+", r"\\d+", re.escape(between)))
    marked = bool(encoder.find_control(begin))
    return CallForm(begin.strip(), end.strip(), section, marked, partial(_read_call, pattern))


def _cannot_read(text: str) -> str:
    return "renderer 'chat_template' cannot read this template's calls"


def _common(one: str, other: str) -> str:
    """Return what both texts begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _middle(said: Said, given: Any, shown: str) -> str | None:
    """Return what stands between the arguments of one call and the name of the next; None where one is all there is."""
    try:
        parts = said([QUESTION, call_message(given, 2)]).split(shown)
    except UserError:
        return None
    return parts[1].partition(NAME)[0] if len(parts) == 3 else None


def _read_call(between: re.Pattern[str], text: str) -> dict[str, Any] | str:
    parts = between.split(text, maxsplit=1)
    return (
        read_arguments(parts[0], parts[1]) if len(parts) == 2 else "no name and arguments as the template writes them"
    )
