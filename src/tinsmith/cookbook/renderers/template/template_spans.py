"""Where in a chat template's text each message's author speaks.

Where the template says itself what the assistant generates, it is believed. Everything else is found by differences: a
conversation with and without what follows, or with a stand-in in a message's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tinsmith.cookbook.renderers.base import Tools
from tinsmith.cookbook.renderers.encoding import PieceEncoder
from tinsmith.cookbook.renderers.messages import DEVELOPER, THOUGHT_FIELDS
from tinsmith.cookbook.renderers.template.template_text import Marks, TemplateText
from tinsmith.types.errors import UserError

Span = tuple[int, int]


class Spans:
    """The places of one conversation's messages.

    Args:
        template: that writes it.
        encoder: of the tokenizer.
        messages: as the template reads them, nobody's words like control tokens.
        tools: shown with them.
        marks: free characters.
        closers: control tokens that end a turn.
        header: what opens an answer, thinking aside.
        prompt: the conversation is to be answered.
    """

    def __init__(
        self,
        template: TemplateText,
        encoder: PieceEncoder,
        messages: Sequence[dict[str, Any]],
        tools: Tools,
        marks: Marks,
        closers: frozenset[str],
        header: str,
        *,
        prompt: bool = False,
    ) -> None:
        self.text = template.render(messages, tools, prompt=prompt)
        self._prompt = prompt
        self._template = template
        self._encoder = encoder
        self._messages = list(messages)
        self._tools = tools
        self._marks = marks
        self._closers = closers
        self._header = header
        self._generated = self._find_generated() if template.has_generation_marks else {}
        self._system = self._find_system()

    def of(self, index: int) -> Span:
        """Return where the author of a message speaks, the end marker included.

        Raises:
            UserError: the template does not show it.
        """
        if index in self._generated:
            start, end = self._generated[index]
            return self._behind_prompt(index, start), self._end(start, end)
        if self._messages[index]["role"] == "assistant" and index > 0:
            return self._answer(index)
        start, end = self._stand_in(index)
        closer = next((c for c in self._closers if self.text.startswith(c, end)), "")
        return start, end + len(closer)

    def shows(self, index: int, field: str) -> bool:
        """Whether the text holds a field of a message."""
        stand_in = self._marks.break_ * 2
        return stand_in in self._render_with(index, field, stand_in)

    def _answer(self, index: int) -> Span:
        prompt = self._template.render(self._messages[:index], self._tools, prompt=True)
        so_far = self._template.render(self._messages[: index + 1], self._tools)
        begins, ends = self.text.startswith(prompt), self.text.startswith(so_far)
        if self._is_before_system(index):
            # Some write the system's turn last: what ends the text is not what ends the answer.
            begins = ends = False
        if begins and ends and len(prompt) <= len(so_far):
            return len(prompt), self._end(len(prompt), len(so_far))
        if ends:
            start = self._behind_header(index, self._stand_in(index)[0])
            return start, self._end(start, len(so_far))
        start, end = self._stand_in(index)
        found = [self.text.find(closer, end) for closer in self._closers]
        places = [place for place in found if place >= 0]
        if not places:
            raise self.hidden(index)
        end = min(places)
        closer = max((c for c in self._closers if self.text.startswith(c, end)), key=len)
        start = len(prompt) if begins and len(prompt) <= start else self._behind_header(index, start)
        return start, end + len(closer)

    def _find_system(self) -> list[int]:
        """Return where the system speaks; nothing where the template hides it."""
        places: list[int] = []
        for index, message in enumerate(self._messages):
            if message["role"] in ("system", DEVELOPER) and message["content"]:
                with suppress(UserError):  # it can hardly stand behind an answer then
                    places.append(self._stand_in(index)[0])
        return places

    def _is_before_system(self, index: int) -> bool:
        """Whether the system speaks behind a message; False where the template hides where that stands."""
        if not self._system:
            return False
        with suppress(UserError):
            return max(self._system) >= self._stand_in(index)[0]
        return False

    def _behind_header(self, index: int, start: int) -> int:
        """Return where an answer begins that the prompt did not foresee.

        Args:
            index: of the message.
            start: where its content stands.
        """
        stand_in = self._marks.break_ * 2
        for field in THOUGHT_FIELDS:
            before = (
                self._render_with(index, field, stand_in).partition(stand_in)[0]
                if field in self._messages[index]
                else ""
            )
            if len(before) < start and before and self.text.startswith(before):
                start = len(before)
        if not self._header:
            return min(start, self._behind_question(index) or start)
        place = self.text.rfind(self._header, 0, start)
        behind = place + len(self._header)
        closed = any(closer in self.text[behind:start] for closer in self._closers)
        return start if place < 0 or closed else behind

    def _behind_question(self, index: int) -> int | None:
        """Return where an answer begins that nothing opens: behind what a prompt has behind the message before."""
        stand_in = self._marks.break_ * 2
        asked = [*self._messages[: index - 1], self._messages[index - 1] | {"content": stand_in}]
        behind = self._template.render(asked, self._tools, prompt=True).partition(stand_in)[2]
        with suppress(UserError):
            end = self._stand_in(index - 1)[1]
            if self.text.startswith(behind, end):
                return end + len(behind)
        return None

    def _stand_in(self, index: int) -> Span:
        """Return where a message's content stands; of calls without any, the name of the first."""
        stand_in = self._marks.break_ * 2
        field: str = "content"
        value: Any = stand_in
        message = self._messages[index]
        if message.get("tool_calls") and not message.get("content"):
            first, *others = message["tool_calls"]
            field, value = "tool_calls", [first | {"function": first["function"] | {"name": stand_in}}, *others]
        before, found, after = self._render_with(index, field, value).partition(stand_in)
        if not self.text.startswith(before):
            before = before.rstrip()  # blanks before a text that is empty may be left out
        start, end = len(before), len(self.text) - len(after)
        if not found or not self.text.startswith(before):
            raise self.hidden(index)
        if start <= end and self.text.endswith(after):
            return start, end
        return start, start

    def _render_with(self, index: int, field: str, value: Any) -> str:
        message = self._messages[index] | {field: value}
        replaced = [*self._messages[:index], message, *self._messages[index + 1 :]]
        return self._template.render(replaced, self._tools, prompt=self._prompt)

    def _find_generated(self) -> dict[int, Span]:
        """Return what the template marks as generated, by message; nothing where its marks are not one a message."""
        begin, end = self._marks.begin, self._marks.end
        marked = self._template.render(self._messages, self._tools, prompt=self._prompt, marks=self._marks)
        spans: list[Span] = []
        plain = ""
        for number, part in enumerate(marked.split(begin)):
            said, _, after = part.partition(end)
            if number:
                spans.append((len(plain), len(plain) + len(said)))
            plain += said + after
        answers = [index for index, message in enumerate(self._messages) if message["role"] == "assistant"]
        if plain != self.text or len(spans) != len(answers):
            return {}
        return dict(zip(answers, spans, strict=True))

    def _behind_prompt(self, index: int, start: int) -> int:
        """Return where a marked answer begins: behind what the prompt says already."""
        if index == 0:
            return start
        prompt = self._template.render(self._messages[:index], self._tools, prompt=True)
        if self.text.startswith(prompt):
            return max(start, len(prompt))
        return start + len(self._header) if self.text.startswith(self._header, start) else start

    def _end(self, start: int, end: int) -> int:
        """Return the end of a turn: its end marker, without what the template may write behind it."""
        controls = self._encoder.find_control(self.text[start:end])
        last = end
        for control in reversed(controls):
            if self.text[start + control.end() : last].strip():
                break
            last = start + control.start()
            if control.group() in self._closers:
                end = start + control.end()
        closer = next((c for c in self._closers if self.text.startswith(c, end)), "")
        ended = any(self.text.endswith(c, start, end) for c in self._closers)
        return end if ended else end + len(closer)

    def hidden(self, index: int) -> UserError:
        """Return the error that says that a message's place cannot be told."""
        return UserError(f"messages[{index}]: the tokenizer's chat template hides where it stands; name a renderer")
