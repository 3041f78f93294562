"""Answers read back the way a chat template writes them: one that it wrote shows where its parts stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from tinsmith.cookbook.renderers.encoding import PieceEncoder
from tinsmith.cookbook.renderers.families.qwen3_5 import PYTHON_VALUES, read_tagged_call
from tinsmith.cookbook.renderers.messages import Message
from tinsmith.cookbook.renderers.template.template_abilities import ANSWER, ARGUMENTS, NAME, THOUGHT, Abilities
from tinsmith.cookbook.renderers.tools import UnparsedToolCall, read_arguments, read_json_call, to_json
from tinsmith.types.errors import UserError

# What the last message of a conversation says in a template's text, without its end marker.
Said = Callable[[list[dict[str, Any]]], str]


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template writes calls.

    Attributes:
        begin: before each call.
        end: behind each call; may be empty, and may hold the call's id.
        section: what stands around all calls.
        marked: whether a control token stands before each call.
        sectioned: whether one stands before all calls alone.
        separator: what stands between calls, blanks aside.
        read: makes a call of what stands between `begin` and `end`, or says why it is none.
    """

    begin: str
    end: re.Pattern[str]
    section: tuple[str, str]
    marked: bool
    read: Callable[[str], dict[str, Any] | str]
    sectioned: bool = False
    separator: str = ""

    def close(self, text: str) -> tuple[str, str | None, str]:
        """Cut a text at the last end of a call: before it, the id in it (empty: none), and behind it.

        Without an end the id is None.
        """
        if not self.end.pattern:
            return text, "", ""
        ends = list(self.end.finditer(text))
        if not ends:
            return text, None, ""
        found = ends[-1]
        return text[: found.start()], found.groupdict().get("id") or "", text[found.end() :]


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
        if form is None or form.begin not in text or (form.sectioned and form.section[0] not in text):
            return plain
        calls: list[dict[str, Any]] = []
        unparsed: list[UnparsedToolCall] = []
        before, *said = text.split(form.begin)
        rest = [before.removesuffix(form.section[0]).rstrip("\n")]
        for part in said:
            inner, closed, after = form.close(part)
            call = form.read(inner) if closed is not None else "it breaks off"
            if isinstance(call, dict) and closed:
                call = {"id": closed, **call}
            if isinstance(call, str):
                unparsed.append({"text": form.begin + part, "reason": call})
            else:
                calls.append(call)
                rest.append("" if after.strip() == form.separator else after.strip("\n").removeprefix(form.section[1]))
        if not (form.marked or form.sectioned) and (unparsed or rest[0].strip()):
            return plain  # nothing but its words makes it look like a call
        message: Message = {"role": "assistant", "content": "".join(rest).rstrip()}
        if calls:
            message["tool_calls"] = calls
        if unparsed:
            message["unparsed_tool_calls"] = unparsed
        return message


def find_form(said: Said, abilities: Abilities, encoder: PieceEncoder) -> AnswerForm:
    """Return how a template writes answers, found by letting it write some."""
    asked = abilities.probe.asked
    calls = None if abilities.arguments is None else _find_calls(said, abilities, encoder)
    answer = said(asked(ANSWER)).partition(ANSWER["content"])[0]
    if abilities.thinking is None:
        # Models that think do so in these tags, whatever their template reads.
        return AnswerForm("<think>", ("</think>",), answer, calls)
    field = {abilities.thinking: THOUGHT}
    thought, _, behind = said(asked(ANSWER | field)).partition(THOUGHT)
    ends = [behind.partition(ANSWER["content"])[0]]
    if abilities.arguments is not None:
        behind = said(asked(abilities.call() | field)).partition(THOUGHT)[2]
        call = said(asked(abilities.call()))
        if behind.endswith(call):
            ends.append(behind.removesuffix(call))
    return AnswerForm(thought, tuple(end for end in ends if end.strip()), answer, calls)


def _find_calls(said: Said, abilities: Abilities, encoder: PieceEncoder) -> CallForm:
    asked, shown = abilities.probe.asked, to_json(ARGUMENTS)
    one = said(asked(abilities.call()))
    answer = said(asked(ANSWER)).partition(ANSWER["content"])[0]
    if answer.strip():
        one = one.removeprefix(answer).removeprefix(answer.rstrip())
    # Whatever number a call has there, another one has another.
    number = abilities.probe.call_id(0)
    name, place = one.find(NAME), one.find(shown)
    if "<function=" in one and "<tool_call>" in one:
        read = partial(read_tagged_call, values=PYTHON_VALUES)
        return CallForm("<tool_call>", _any("</tool_call>"), ("", ""), encoder.has_control("<tool_call>"), read)
    if number is not None and 0 <= one.find(number) < min(name, place) and "{" in one[: one.find(number)]:
        begin, close = one[: one.rfind("{", 0, one.find(number))], one.find("}", place + len(shown))
        marked = bool(encoder.find_control(begin))
        return CallForm(begin.strip(), _any(one[close + 1 :].strip()), ("", ""), marked, _read_object)
    if not 0 <= name < place:
        begin = one[:name].strip()
        return CallForm(begin, _any(""), ("", ""), bool(encoder.find_control(begin)), _cannot_read)
    before, between, behind = one[:name], one[name + len(NAME) : place], one[place + len(shown) :]
    begin, end, separator = before, behind, ""
    middle = _middle(said, abilities, shown)
    if middle is not None:
        begin = _common(before[::-1], middle[::-1])[::-1]
        end = _common(behind, middle.removesuffix(begin))
        separator = middle.removesuffix(begin).removeprefix(end).strip()
    section = before.removesuffix(begin).strip(), behind.removeprefix(end).strip()
    marked = bool(encoder.find_control(begin))
    sectioned = not marked and bool(encoder.find_control(section[0]))
    read = partial(_read_call, _any(between, number))
    return CallForm(begin.strip(), _any(end.strip(), number), section, marked, read, sectioned, separator)


def _any(text: str, number: str | None = None) -> re.Pattern[str]:
    """Return the pattern of a text, with any id in the place of one, and any number in the place of one."""
    parts = [text] if number is None else text.split(number, 1)
    return re.compile(r"(?P<id>[^\s\"'<>]+)".join(re.sub(r"\d+", r"\\d+", re.escape(part)) for part in parts))


def _cannot_read(text: str) -> str:
    return "renderer 'chat_template' cannot read this template's calls"


def _common(one: str, other: str) -> str:
    """Return what both texts begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _middle(said: Said, abilities: Abilities, shown: str) -> str | None:
    """Return what stands between the arguments of one call and the name of the next; None where one is all there is."""
    try:
        parts = said(abilities.probe.asked(abilities.call(2))).split(shown)
    except UserError:
        return None
    return parts[1].partition(NAME)[0] if len(parts) == 3 else None


def _read_call(between: re.Pattern[str], text: str) -> dict[str, Any] | str:
    found = between.search(text)
    if found is None:
        return "no name and arguments as the template writes them"
    return read_arguments(text[: found.start()], text[found.end() :], found.groupdict().get("id"))


def _read_object(text: str) -> dict[str, Any] | str:
    """Read a call that is one object with its id."""
    call = read_json_call(text)
    given = json.loads(text).get("id") if isinstance(call, dict) else None
    return {"id": given, **call} if isinstance(given, str) and isinstance(call, dict) else call
