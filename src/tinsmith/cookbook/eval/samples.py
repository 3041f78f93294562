"""Answers to read: what the model says to a few questions, beside what the data say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.completers import sample_responses
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.cookbook.rows.row_kinds import is_text, read_messages


class SampledAnswers:
    """Writes sampled answers into the transcript; measures nothing.

    Args:
        rows: as for training; the answer that a conversation ends with is shown below the model's. Raw texts ask
            nothing and are left out.
        count: the first so many are asked; each evaluation asks the same.
        max_tokens: longest answer.
        temperature: 0 is greedy.
    """

    name = "samples"

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], count: int = 4, *, max_tokens: int = 256, temperature: float = 0.0
    ) -> None:
        # A text has no question in it.
        read = [read_messages(row) for row in rows[:count] if not is_text(row)]
        self._asked = [(said.messages[:-1], said.messages[-1]) for said in read if len(said.messages) > 1]
        self._tools = [said.tools for said in read if len(said.messages) > 1]
        self._max_tokens = max_tokens
        self._temperature = temperature

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Sample where there is a transcript to write into."""
        # Nobody would read it, so nothing is sampled.
        if context.transcript is None or not self._asked:
            return {}
        questions = [question for question, _ in self._asked]
        responses = sample_responses(
            context.sampling_client,
            context.renderer,
            questions,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=context.seed,
            tools=self._tools,
        )
        context.transcript.heading("Sampled answers")
        for (question, given), tools, response in zip(self._asked, self._tools, responses, strict=True):
            told = f"in the data: {spoken(given)}"
            context.transcript.conversation([*question, response.message], note=told, tools=tools)
        return {}
