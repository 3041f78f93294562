"""How far the student, without the prompt, says what the teacher says with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.completers import sample_responses
from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import Distilled


def share_equal(given: Sequence[str], expected: Sequence[str]) -> float:
    """Return the share of texts that equal their counterparts."""
    return sum(one == other for one, other in zip(given, expected, strict=True)) / len(expected)


class AgreementEvaluator:
    """Asks the student the held-out queries, greedily and without the teacher's prompt.

    `eval/agreement` is the share of its answers that equal the teacher's; `eval/accuracy` that of right ones, among the
    queries whose right answer is known. Two yardsticks beside them: `teacher/majority`, the agreement of one who always
    gives the teacher's most frequent answer, and `teacher/accuracy`.

    Args:
        distilled: rows and tests.
        max_tokens: longest answer.
        shown: answers that the transcript shows, those that differ from the teacher's first.
    """

    name = "agreement"

    def __init__(self, distilled: Distilled, max_tokens: int, shown: int) -> None:
        self._max_tokens = max_tokens
        self._shown = shown
        self._queries = [query for query, _ in distilled.tests]
        self._teacher = [spoken(message) for _, message in distilled.tests]
        # Of the training rows, as a student would know it who has learned nothing but the most common answer.
        frequent = Counter(spoken(row["messages"][-1]) for row in distilled.rows).most_common(1)[0][0]
        self._yardsticks = {"teacher/majority": share_equal([frequent] * len(self._teacher), self._teacher)}
        self._labels = {
            index: spoken(query.answer) if isinstance(query.answer, dict) else query.answer.strip()
            for index, query in enumerate(self._queries)
            if query.answer is not None
        }
        if self._labels:
            self._yardsticks["teacher/accuracy"] = self._accuracy(self._teacher)

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Sample the student and compare."""
        responses = sample_responses(
            context.sampling_client,
            context.renderer,
            [query.messages for query in self._queries],
            max_tokens=self._max_tokens,
            seed=context.seed,
        )
        student = [spoken(response.message) for response in responses]
        found = {"eval/agreement": share_equal(student, self._teacher), **self._yardsticks}
        if context.transcript is not None:
            context.transcript.heading(f"agreement: {found['eval/agreement']:.1%} of {len(student)}")
            pairs = zip(self._queries, self._teacher, student, strict=True)
            # False sorts before True: what differs comes first.
            shown = sorted(pairs, key=lambda pair: pair[1] == pair[2])[: self._shown]
            context.transcript.table(
                [{"query": q.messages[-1]["content"], "teacher": t, "student": s} for q, t, s in shown]
            )
        if self._labels:
            found["eval/accuracy"] = self._accuracy(student)
        return found

    def _accuracy(self, answers: Sequence[str]) -> float:
        return share_equal([answers[index] for index in self._labels], list(self._labels.values()))
