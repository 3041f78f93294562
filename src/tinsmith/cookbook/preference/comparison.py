"""Comparisons: a prompt and two answers to it, of which somebody preferred one. Read from rows of any known shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinsmith.cookbook.preference.formats import EXPECTED, to_trl
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.renderers.messages import check_messages, flagged
from tinsmith.cookbook.renderers.tools import ToolSpec, check_tools
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

Messages = list[Mapping[str, Any]]


class Comparison(NamedTuple):
    """A prompt and two answers.

    Attributes:
        prompt: what both answer.
        chosen: the preferred answer: a message of the assistant, perhaps with more turns after it.
        rejected: the other one.
        tools: that the assistant may call; None where there are none.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    tools: Sequence[ToolSpec] | None = None

    def prompt_key(self) -> str:
        """Return a text that is equal for equal prompts."""
        return json.dumps([self.prompt, self.tools], sort_keys=True, default=str)


def read_comparison(row: Any, renderer: Renderer | None = None, notes: RowNotes | None = None) -> Comparison:
    """Read a row of preference data.

    Args:
        row: of TRL's shape, `{"prompt", "chosen", "rejected"}` or without the prompt, each a text or a list of
            messages, perhaps with `tools` and `system`; or of HHH, HelpSteer3, UltraFeedback, OpenAI or LLaMA-Factory
            as they come.
        renderer: whose format has to be able to say it; None asks for well-formed conversations only.
        notes: takes what is worth telling of the row.

    Raises:
        UserError: the row is of no known shape, or has a key that cannot be honoured; an answer is empty, both answers
            are equal, they do not answer the same prompt, or neither was preferred.
    """
    if not isinstance(row, Mapping):
        raise invalid("row", row, f"an object with {EXPECTED}")
    found = to_trl(row, notes or RowNotes())
    tools = check_tools(found["tools"]) or None
    chosen, rejected = found["chosen"], found["rejected"]
    if type(chosen) is not type(rejected):
        raise invalid("rejected", rejected, "a text as chosen, or a list of messages as chosen")
    if isinstance(chosen, str):
        comparison = _of_texts(found.get("prompt"), chosen, rejected)
    else:
        comparison = _of_messages(found.get("prompt"), chosen, rejected)
    _check(comparison, tools, renderer)
    return comparison._replace(tools=tools)


def check_pair(row: Any, *, notes: RowNotes | None = None) -> Row:
    """Return a row that `read_comparison` can read, or one in which neither answer was preferred.

    Raises:
        UserError: it is neither.
    """
    if not is_tie(row):
        read_comparison(row, notes=notes)
    return row


def is_tie(row: Any) -> bool:
    """Return whether a row says that neither answer is better, as HelpSteer3 does with an `overall_preference` of 0."""
    return isinstance(row, Mapping) and row.get("overall_preference") == 0


def _of_texts(prompt: Any, chosen: str, rejected: Any) -> Comparison:
    if prompt is None:
        prompt, chosen, rejected = _common_beginning(chosen, rejected)
    for field, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if field == "prompt" and isinstance(text, list):
            continue
        if not isinstance(text, str) or not text.strip():
            raise invalid(field, text, "a text that is not empty")
    # What stands before and after an answer is how texts are joined, not what was said.
    asked: Messages = prompt if isinstance(prompt, list) else [_user(prompt)]
    return Comparison(asked, [_assistant(chosen)], [_assistant(rejected)])


def _common_beginning(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return the words that two texts begin with, and what follows in each."""
    if chosen == rejected:
        raise invalid("rejected", rejected, "another text than chosen")
    length = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        length += 1
    # Back to the last space: "black" and "blue" differ as words, and no tokenizer is asked to split "bl".
    while length and not chosen[length - 1].isspace():
        length -= 1
    prompt = chosen[:length]
    if not prompt.strip():
        raise invalid("rejected", rejected, f"a text that begins as chosen does, {chosen[:40]!r}: their common prompt")
    return prompt.rstrip(), chosen[length:], rejected[length:]


def _of_messages(prompt: Any, chosen: Any, rejected: Any) -> Comparison:
    for field, messages in (("chosen", chosen), ("rejected", rejected)):
        check_messages(messages, field)
    given = None if prompt is None else _prompt(prompt)
    if given is None:
        length = 0
        # The answers themselves are no part of the prompt, even if they are equal.
        shortest = min(len(chosen), len(rejected)) - 1
        while length < shortest and _same(chosen[length : length + 1], rejected[length : length + 1]):
            length += 1
        if not length:
            expected = "a conversation that begins as chosen does; what both begin with is the prompt"
            raise invalid("rejected", rejected[0], expected)
        return _answering(chosen[:length], chosen[length:], rejected[length:])
    # UltraFeedback has a prompt and whole conversations beside it.
    whole = [_same(messages[: len(given)], given) and len(messages) > len(given) for messages in (chosen, rejected)]
    if all(whole):
        return _answering(given, chosen[len(given) :], rejected[len(given) :])
    if chosen[0].get("role") == "user" or rejected[0].get("role") == "user":
        field, messages = ("chosen", chosen) if not whole[0] else ("rejected", rejected)
        raise invalid(
            f"{field}[0]", messages[0], "an answer to the row's prompt, or a conversation that begins with it"
        )
    return _answering(given, chosen, rejected)


def _same(ours: Messages, theirs: Messages) -> bool:
    """Return whether messages say the same, whatever is said of whether they are learned."""
    return [flagged(message, False) for message in ours] == [flagged(message, False) for message in theirs]


def _answering(prompt: Messages, chosen: Messages, rejected: Messages) -> Comparison:
    for field, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[0].get("role") != "assistant":
            expected = "an answer of the assistant to the same prompt as that of the other"
            raise invalid(f"{field}: first message after the prompt", messages[0], expected)
    return Comparison(list(prompt), list(chosen), list(rejected))


def _prompt(prompt: Any) -> Messages:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise invalid("prompt", prompt, "a text that is not empty")
        return [_user(prompt)]
    check_messages(prompt, "prompt")
    return list(prompt)


def _check(comparison: Comparison, tools: Sequence[ToolSpec] | None, renderer: Renderer | None) -> None:
    prompt, chosen, rejected, _ = comparison
    for field, answer in (("chosen", chosen), ("rejected", rejected)):
        messages = [*prompt, *answer]
        checked = check_messages(messages, field) if renderer is None else renderer.check(messages, tools)
        for index, message in enumerate(checked):
            answers = index >= len(prompt) and message.role == "assistant"
            if message.learned is not None and message.learned != answers:
                expected = "none: both answers are compared as a whole, and nothing else is learned"
                raise invalid(f"{field}: weight of message {index}", int(message.learned), expected)
        for index, message in enumerate(checked[len(prompt) :]):
            if message.role == "assistant" and not message.text.strip() and not message.tool_calls:
                raise invalid(f"{field}[{index}].content", message.text, "an answer that is not empty")
    if chosen == rejected:
        raise invalid("rejected", rejected[-1].get("content"), "another answer than chosen")


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text.strip()}
