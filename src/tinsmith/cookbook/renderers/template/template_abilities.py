"""What a chat template has a place for, found by letting it write a few conversations.

Templates have conditions: some refuse a call whose id has not nine letters, some show calls only where tools are
defined, some want a system turn. Each is tried in the ways that published templates ask for, the plain one first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tinsmith.cookbook.renderers.base import Tools
from tinsmith.cookbook.renderers.messages import DEVELOPER, THOUGHT_FIELDS, CheckedMessage
from tinsmith.cookbook.renderers.template.template_text import TemplateText
from tinsmith.cookbook.renderers.tools import ToolCall, arguments_text, to_json
from tinsmith.types.errors import UserError

QUESTION = {"role": "user", "content": "wherefore"}
ANSWER = {"role": "assistant", "content": "therefore"}
THOUGHT = "hitherto"
NAME, ARGUMENTS, RESULT = "forsooth", {"perchance": "methinks"}, "henceforth"
_SYSTEM = {"role": "system", "content": "whereas"}

# How calls are numbered, each with what the number is put into; the first that a template takes is that of its probes.
_IDS = {
    "kimi": (f"functions.{NAME}:{{}}", "01"),
    "mistral": ("verilyaa{}", "ab"),  # nine letters
    "none": None,
}
_TOOLS: tuple[Mapping[str, Any], ...] = tuple(
    {"type": "function", "function": {"name": NAME, "description": RESULT, "parameters": parameters}}
    for parameters in (
        {"type": "object", "properties": {}},
        {
            "type": "object",
            "properties": {"whither": {"type": "string", "description": "whither"}},
            "required": ["whither"],
        },
    )
)


@dataclass(frozen=True, slots=True)
class Probe:
    """The conversation with which a template is tried.

    Attributes:
        lead: messages before the question.
        call_tools: definitions without which calls are not shown; None where they are shown anyway.
        ids: how calls are numbered, a name of `_IDS`.
    """

    lead: tuple[dict[str, Any], ...] = ()
    call_tools: tuple[Mapping[str, Any], ...] | None = None
    ids: str = "kimi"

    def asked(self, *others: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a question and the messages behind it."""
        return [*self.lead, QUESTION, *others]

    def call(self, arguments: Any, count: int = 1) -> dict[str, Any]:
        """Return a message of calls."""
        calls: list[dict[str, Any]] = []
        for number in range(count):
            call = {"type": "function", "function": {"name": NAME, "arguments": arguments}}
            given = self.call_id(number)
            calls.append(call if given is None else {"id": given, **call})
        return {"role": "assistant", "content": "", "tool_calls": calls}

    def call_id(self, number: int) -> str | None:
        """Return the id of a call, the first or the second."""
        form = _IDS[self.ids]
        return None if form is None else form[0].format(form[1][number])

    def result(self) -> dict[str, Any]:
        """Return the result of the first call."""
        given = self.call_id(0)
        message = {"role": "tool", "content": RESULT, "name": NAME}
        return message if given is None else {**message, "tool_call_id": given}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template has a place for.

    Attributes:
        thinking: the field in which it reads thinking; None where it reads none.
        arguments: the form of a call's arguments: `given` (either), `object` or `text`; None where it shows no calls.
        no_content: whether calls may have None for their content; if not, it is given an empty text.
        results: whether it shows the results of calls.
        tools: whether it shows definitions.
        developer: whether it knows the role of a developer; if not, one speaks as the system.
        probe: the conversation that found it out.
    """

    thinking: str | None
    arguments: str | None
    no_content: bool
    results: bool
    tools: bool
    developer: bool
    probe: Probe

    @property
    def calls_need_tools(self) -> bool:
        """Whether calls are shown only where tools are defined."""
        return self.probe.call_tools is not None

    def call(self, count: int = 1) -> dict[str, Any]:
        """Return a message of calls, with arguments as the template wants them."""
        return self.probe.call(to_json(ARGUMENTS) if self.arguments == "text" else ARGUMENTS, count)

    def said(self, message: Mapping[str, Any], checked: CheckedMessage) -> dict[str, Any]:
        """Return a message with the fields and forms that the template reads."""
        said: dict[str, Any] = {"role": checked.role, "content": checked.text}
        if message.get("role") == DEVELOPER and self.developer:
            said["role"] = DEVELOPER
        if message.get("content") is None and self.no_content:
            said["content"] = None
        if checked.thinking is not None and self.thinking is not None:
            said[self.thinking] = checked.thinking
        if checked.tool_calls:
            calls = zip(message["tool_calls"], checked.tool_calls, strict=True)
            said["tool_calls"] = [self._call(given, call) for given, call in calls]
        for key in ("name", "tool_call_id"):
            if message.get(key) is not None:
                said[key] = message[key]
        return said

    def _call(self, given: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
        arguments: Any = call.arguments
        if self.arguments == "text":
            arguments = arguments_text(call)
        elif self.arguments == "object" and isinstance(arguments, str):
            arguments = json.loads(arguments)
        return {"type": "function", **given, "function": {**given["function"], "arguments": arguments}}


def find_abilities(template: TemplateText) -> Abilities:
    """Try what a template has a place for.

    Raises:
        UserError: it refuses a question and its answer.
    """
    probe = Probe()
    try:
        template.render(probe.asked(ANSWER))
    except UserError:
        probe = Probe(lead=(_SYSTEM,))
        if not _shows(template, probe.asked(ANSWER), [ANSWER["content"]]):
            raise
    thoughts = (f for f in THOUGHT_FIELDS if _shows(template, probe.asked(ANSWER | {f: THOUGHT}), [THOUGHT]))
    tools = next(((tool,) for tool in _TOOLS if _shows(template, probe.asked(), [NAME], (tool,))), None)
    probe, arguments = _find_calls(template, probe, tools)
    developer = template.mentions(DEVELOPER)
    able = Abilities(next(thoughts, None), arguments, False, False, tools is not None, developer, probe)
    if arguments is None:
        return able
    empty = able.call() | {"content": None}
    return replace(
        able,
        no_content=_shows(template, probe.asked(empty), _WORDS, probe.call_tools),
        results=_shows_result(template, able),
    )


# The name of a call stands in a definition too; its arguments do not.
_WORDS = [*ARGUMENTS, *ARGUMENTS.values()]


def _find_calls(
    template: TemplateText, probe: Probe, tools: tuple[Mapping[str, Any], ...] | None
) -> tuple[Probe, str | None]:
    """Return the probe with which a template shows calls, and the form of arguments that it wants (None: no calls)."""
    forms = {"object": ARGUMENTS, "text": to_json(ARGUMENTS)}
    for given, ids in product((None, tools) if tools else (None,), _IDS):
        tried = replace(probe, call_tools=given, ids=ids)
        able = [
            form
            for form, arguments in forms.items()
            if _shows(template, tried.asked(tried.call(arguments)), [NAME, *_WORDS], given)
        ]
        if able:
            return tried, "given" if len(able) == len(forms) else able[0]
    return probe, None


def _shows_result(template: TemplateText, able: Abilities) -> bool:
    """Whether the result of a call is shown; a definition may hold the same word."""
    asked, tools = able.probe.asked, able.probe.call_tools
    try:
        text = template.render(asked(able.call(), able.probe.result(), ANSWER), tools)
    except UserError:
        return False
    return text.count(RESULT) > template.render(asked(able.call()), tools).count(RESULT)


def _shows(
    template: TemplateText, messages: Sequence[Mapping[str, Any]], words: Sequence[str], tools: Tools = None
) -> bool:
    try:
        text = template.render(messages, tools)
    except UserError:
        return False
    return all(word in text for word in words)
