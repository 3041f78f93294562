"""A tokenizer's chat template as a function from messages to text.

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
        # With several templates, tools choose the one that is taken.
        several = [template] if isinstance(template, str) else list(template.values())
        self._marked = {text: _GENERATION.sub(_with_mark, text) for text in several}
        self.has_generation_marks = any(text != marked for text, marked in self._marked.items())

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
                "chat_template": self._marked[self._tokenizer.get_chat_template(tools=tools or None)],
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

    def mentions(self, word: str) -> bool:
        """Whether a template names something, e.g. a role: most write the name of any role that they are given."""
        return any(word in text for text in self._marked)

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
