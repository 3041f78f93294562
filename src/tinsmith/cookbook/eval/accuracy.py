"""Sampled answers against a grader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.types.errors import invalid

# From the row that was asked and the answer to a grade from 0 (wrong) to 1 (right).
Grader = Callable[[Mapping[str, Any], str], float]


def exact_match(row: Mapping[str, Any], answer: str) -> bool:
    """Grade whether an answer is, spaces around it aside, the one that the row's conversation ends with."""
    return answer.strip() == str(row["messages"][-1]["content"]).strip()


class AccuracyEvaluator:
    """Asks every question once and gives the mean grade as `eval/NAME`.

    Args:
        questions: rows with `messages`; an answer of the assistant at the end is what is right, and not shown to the
            model. Other keys are for the grader.
        grader: from (row, answer) to 0 ... 1.
        name: what the metric is called behind `eval/`.
        max_tokens: longest answer.
        temperature: 0 is greedy; above, the sampling is seeded.
        shown: questions, answers and grades that the transcript shows, the worst first.

    Raises:
        UserError: there are no questions, or one is no conversation.
    """

    def __init__(
        self,
        questions: Sequence[Mapping[str, Any]],
        grader: Grader = exact_match,
        name: str = "accuracy",
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        shown: int = 12,
    ) -> None:
        if not questions:
            raise invalid("questions", questions, "at least one row")
        self.name = name
        self._rows = list(questions)
        self._asked = [asked(row, f"questions[{index}]") for index, row in enumerate(self._rows)]
        self._tools = [row.get("tools") for row in self._rows]
        self._grader = grader
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._shown = shown

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Sample, grade and write some of it into the transcript."""
        answers = context.answers(
            self._asked, max_tokens=self._max_tokens, temperature=self._temperature, tools=self._tools
        )
        grades = [grade_of(self._grader, row, answer) for row, answer in zip(self._rows, answers, strict=True)]
        mean = sum(grades) / len(grades)
        if context.transcript is not None:
            context.transcript.heading(f"{self.name}: {mean:.1%} of {len(grades)}")
            # The wrong ones teach most, so they come first on the page.
            for i in sorted(range(len(grades)), key=grades.__getitem__)[: self._shown]:
                context.transcript.conversation(
                    [*self._asked[i], {"role": "assistant", "content": answers[i], "sampled": True}],
                    note=f"grade {grades[i]:g}{_in_the_data(self._rows[i])}",
                    tools=self._tools[i],
                )
        return {f"eval/{self.name}": mean}


def _in_the_data(row: Mapping[str, Any]) -> str:
    last = row["messages"][-1]
    return f" · in the data: {spoken(last)}" if last.get("role") == "assistant" else ""


def grade_of(grader: Grader, row: Mapping[str, Any], answer: str) -> float:
    """Return a grader's grade of an answer.

    Raises:
        UserError: it is no number from 0 to 1.
    """
    # Graders are people's own functions: a bool, a numpy scalar or a string may come back.
    given: Any = grader(row, answer)
    try:
        grade = float(given)
    except (TypeError, ValueError):
        grade = float("nan")
    # NaN fails this, too.
    if not 0.0 <= grade <= 1.0:
        raise invalid("grader", given, "a number from 0 (wrong) to 1 (right)")
    return grade


def asked(row: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """Return the conversation of a row without the answer that it ends with, if it ends with one.

    Raises:
        UserError: the row is no conversation, or holds nothing but an answer; `field` names it.
    """
    messages = row.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise invalid(field, row, 'a row with "messages"')
    if not all(isinstance(message, Mapping) for message in messages):
        raise invalid(f"{field}.messages", messages, 'objects {"role": ..., "content": ...}')
    # The model must not read the answer that it is asked for.
    question = list(messages[:-1] if messages[-1].get("role") == "assistant" else messages)
    if not question:
        raise invalid(f"{field}.messages", messages, "a question before the answer")
    return question
