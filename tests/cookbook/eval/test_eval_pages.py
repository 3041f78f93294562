"""What evaluators write into a transcript: wrong answers first, beside what the data say, tool calls included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

import tinsmith
from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.eval import (
    AccuracyEvaluator,
    EvalContext,
    Evaluator,
    ForgettingEvaluator,
    SampledAnswers,
    WinRateEvaluator,
)
from tinsmith.cookbook.renderers import Renderer, get_renderer

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


class Pages:
    """Keeps what an evaluator writes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.asked: list[str] = []

    def heading(self, text: str) -> None:
        """Take a heading."""

    def table(self, rows: Any) -> None:
        """Take a table."""

    def conversation(self, messages: Any, note: str = "", *, tools: Any = None) -> None:
        """Keep the question and the note."""
        self.asked.append(messages[0]["content"])
        self.notes.append(note)


def context_of(pages: Pages) -> EvalContext:
    service = tinsmith.ServiceClient()
    tokenizer = service.get_tokenizer("tinsmith-tiny")
    renderer = get_renderer("tinsmith_tiny", tokenizer)
    return EvalContext(service, "tinsmith-tiny", renderer, tokenizer, transcript=cast(Any, pages))


def row(question: str, **answer: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "", **answer}]}


@pytest.mark.row(112)
def test_the_worst_answers_are_shown_first_with_the_right_ones() -> None:
    pages = Pages()
    rows = [row(f"q{i}", content=f"a{i}") for i in range(4)]
    rows[2]["messages"].pop()  # nothing is said to be right
    grades = {"q0": 1.0, "q1": 0.5, "q2": 0.0, "q3": 1.0}
    grader = lambda row, answer: grades[row["messages"][0]["content"]]  # noqa: E731
    found = AccuracyEvaluator(rows, grader, max_tokens=1, shown=3)(context_of(pages))
    assert found == {"eval/accuracy": 0.625}
    assert pages.asked == ["q2", "q1", "q0"]
    assert pages.notes == ["grade 0", "grade 0.5 · in the data: a1", "grade 1 · in the data: a0"]


def test_a_call_that_the_data_hold_is_shown_beside_the_sampled_answer() -> None:
    pages = Pages()
    SampledAnswers([row("1+1?", tool_calls=[CALL]), row("2?", content="2")], max_tokens=1)(context_of(pages))
    assert pages.notes == ['in the data: ["add", {"a": 1}]', "in the data: 2"]


def test_what_is_said_is_text_and_calls_in_any_form_of_content() -> None:
    assert spoken({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]}) == "x"
    assert spoken({"tool_calls": [CALL]}) == '["add", {"a": 1}]'


TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: SampledAnswers(rows, max_tokens=1),
        lambda rows: AccuracyEvaluator(rows, max_tokens=1),
        lambda rows: ForgettingEvaluator(rows, max_tokens=1),
        lambda rows: WinRateEvaluator(rows, lambda matches: [0.5] * len(matches), max_tokens=1),
    ],
)
def test_questions_are_asked_with_the_tools_of_their_rows(
    make: Callable[[list[dict[str, Any]]], Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Any] = []
    context = context_of(Pages())
    renderer_class = type(context.renderer)
    build = renderer_class.build_generation_prompt

    def spy(self: Renderer, messages: Any, *args: Any, tools: Any = None, **kwargs: Any) -> Any:
        offered.append(tools)
        return build(self, messages, *args, tools=tools, **kwargs)

    monkeypatch.setattr(renderer_class, "build_generation_prompt", spy)
    make([row("1+1?", content="2") | {"tools": TOOLS}, row("hi", content="hello")])(context)
    assert offered in ([TOOLS, None], [TOOLS, None] * 2)
