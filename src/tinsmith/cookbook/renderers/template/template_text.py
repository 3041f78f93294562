"""A tokenizer's chat template as a function from messages to text, and what it can say.

Nobody's words can become control tokens: a character that occurs nowhere else (the mark) is put inside everything that
looks like one, and goes when the text is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from tinsmith.cookbook.renderers.base import Tools
from tinsmith.cookbook.renderers.encoding import PieceEncoder
from tinsmith.cookbook.renderers.messages import THOUGHT_FIELDS, CheckedMessage
from tinsmith.cookbook.renderers.tools import ToolCall, arguments_text, to_json
from tinsmith.types.errors import UserError, invalid

_THOUGHT = ("<think>", "</think>")
# Keys whose values are names of the format, not somebody's words.
_STRUCTURE = ("role", "type")
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


@dataclass(frozen=True, slots=True)
class Marks:
    """Three characters that a conversation does not hold.

    Attributes:
        break_: inside what only looks like a control token.
        begin: where the template's generation mark opens.
        end: where it closes.
    """

    break_: str
    begin: str
    end: str

    @classmethod
    def outside(cls, *spoken: Any) -> Marks:
        """Choose marks that occur nowhere in what is said."""
        spelled = json.dumps(spoken, ensure_ascii=False, default=str)
        free = (char for char in map(chr, range(0xE000, 0xF8FF)) if char not in spelled)
        return cls(next(free), next(free), next(free))


class TemplateText:
    """A chat template.

    Attributes:
        has_generation_marks: whether it says itself what the assistant generates (`{% generation %}`).

    Args:
        tokenizer: with a chat template.
        encoder: of the tokenizer.

    Raises:
        UserError: the tokenizer has no template.
    """

    def __init__(self, tokenizer: Any, encoder: PieceEncoder) -> None:
        template = getattr(tokenizer, "chat_template", None)
        if not template:
            raise invalid("tokenizer.chat_template", None, "a chat template; renderer 'role_colon' needs none")
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._marked = _GENERATION.sub(_with_mark, template) if isinstance(template, str) else None
        self.has_generation_marks = self._marked is not None and self._marked != template

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools = None,
        *,
        prompt: bool = False,
        marks: Marks | None = None,
    ) -> str:
        """Return a conversation as the template writes it.

        Args:
            messages: as `said` gives them.
            tools: that the assistant may call.
            prompt: end with the beginning of an answer.
            marks: write the generation marks, too.

        Raises:
            UserError: the template refuses the conversation.
        """
        options: dict[str, Any] = {}
        if marks is not None:
            options = {
                "chat_template": self._marked,
                "tinsmith_generation_begin": marks.begin,
                "tinsmith_generation_end": marks.end,
            }
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
                **options,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"messages: the tokenizer's chat template refuses the conversation: {error}") from error
        return str(text)

    def break_up(self, value: Any, mark: str, by_assistant: bool = False) -> Any:
        """Return a value with the mark inside each spelled-out control token.

        Args:
            value: a text, or lists and objects of texts.
            mark: the character.
            by_assistant: leave the marks of thinking, which templates look for in an assistant's text.
        """
        if isinstance(value, Mapping):
            return {k: v if k in _STRUCTURE else self.break_up(v, mark, by_assistant) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.break_up(item, mark, by_assistant) for item in value]
        if not isinstance(value, str):
            return value
        position = 0
        broken: list[str] = []
        for match in self._encoder.find_control(value):
            if not (by_assistant and match.group() in _THOUGHT):
                broken.append(value[position : match.start() + 1] + mark)
                position = match.start() + 1
        return "".join(broken) + value[position:]


def _with_mark(tag: re.Match[str]) -> str:
    """Return a tag of a generation block with its mark: the same blanks go before and behind it as without."""
    before, closes, after = tag.groups()
    if closes:
        return f"{{%{before} if true %}}{{{{ tinsmith_generation_end }}}}{{% endif %}}{{% endgeneration {after}%}}"
    return f"{{%{before} generation %}}{{% if true %}}{{{{ tinsmith_generation_begin }}}}{{% endif {after}%}}"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template has a place for, found by trying it.

    Attributes:
        thinking: the field in which it reads thinking; None where it reads none.
        arguments: the form of a call's arguments: `given` (either), `object` or `text`; None where it shows no calls.
        no_content: whether calls may have None for their content; if not, it is given an empty text.
        results: whether it shows the results of calls.
        tools: whether it shows definitions.
    """

    thinking: str | None
    arguments: str | None
    no_content: bool
    results: bool
    tools: bool

    def said(self, message: Mapping[str, Any], checked: CheckedMessage) -> dict[str, Any]:
        """Return a message with the fields and forms that the template reads."""
        said: dict[str, Any] = {"role": checked.role, "content": checked.text}
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


QUESTION = {"role": "user", "content": "wherefore"}
ANSWER = {"role": "assistant", "content": "therefore"}
THOUGHT = "hitherto"
NAME, ARGUMENTS, RESULT = "forsooth", {"perchance": "methinks"}, "henceforth"


def call_message(arguments: Any, count: int = 1) -> dict[str, Any]:
    """Return a message of calls to try a template with."""
    call = {"type": "function", "function": {"name": NAME, "arguments": arguments}}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"functions.{NAME}:{n}", **call} for n in range(count)],
    }


def find_abilities(template: TemplateText) -> Abilities:
    """Try what a template has a place for.

    Raises:
        UserError: it refuses a question and its answer.
    """
    template.render([QUESTION, ANSWER])
    thinking = next((f for f in THOUGHT_FIELDS if _shows(template, [QUESTION, ANSWER | {f: THOUGHT}], [THOUGHT])), None)
    words = [NAME, *ARGUMENTS, *ARGUMENTS.values()]
    forms = {"object": ARGUMENTS, "text": to_json(ARGUMENTS)}
    able = [form for form, given in forms.items() if _shows(template, [QUESTION, call_message(given)], words)]
    arguments = "given" if len(able) == 2 else able[0] if able else None
    called = call_message(forms["text" if arguments == "text" else "object"])
    result = {"role": "tool", "content": RESULT, "name": NAME, "tool_call_id": f"functions.{NAME}:0"}
    tool = {
        "type": "function",
        "function": {"name": NAME, "description": RESULT, "parameters": {"type": "object", "properties": {}}},
    }
    return Abilities(
        thinking,
        arguments,
        no_content=arguments is not None and _shows(template, [QUESTION, called | {"content": None}], words),
        results=arguments is not None and _shows(template, [QUESTION, called, result, ANSWER], [RESULT]),
        tools=_shows(template, [QUESTION], [NAME], [tool]),
    )


def _shows(
    template: TemplateText, messages: Sequence[Mapping[str, Any]], words: Sequence[str], tools: Tools = None
) -> bool:
    try:
        text = template.render(messages, tools)
    except UserError:
        return False
    return all(word in text for word in words)
