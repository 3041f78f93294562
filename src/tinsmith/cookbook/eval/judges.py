"""Judges for pairwise comparison: by a grader of single answers, or by a model that is asked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tinsmith import SamplingClient
from tinsmith.cookbook.completers import sample_answers
from tinsmith.cookbook.eval.accuracy import Grader, asked, exact_match
from tinsmith.cookbook.renderers import Renderer
from tinsmith.types.errors import invalid


class Match(NamedTuple):
    """Two answers to one question.

    Attributes:
        row: what was asked: `messages`, and all that belongs to the row.
        first, second: the answers, in the order in which the judge sees them.
    """

    row: Mapping[str, Any]
    first: str
    second: str


# 1 where the first answer is better, 0 where the second is, 0.5 for a tie, None where there is no verdict.
Judge = Callable[[Sequence[Match]], Sequence[float | None]]

QUESTION = """\
Two assistants answered the same conversation. Say whose answer helps the user more. Judge what is right and what was \
asked for, not length, and not the order in which you read the answers.

[Conversation]
{conversation}

[Answer A]
{first}

[Answer B]
{second}

Give your reasons if you like. Then end with one line: "Verdict: A", "Verdict: B" or "Verdict: tie"."""
# Models like to write **A** or (A): whatever is no letter may stand before it.
_VERDICT = re.compile(r"verdict:\s*\W*(a|b|tie)\b", re.IGNORECASE)
_VALUES = {"a": 1.0, "b": 0.0, "tie": 0.5}


class GradedJudge:
    """Prefers the answer with the higher grade; equal grades are a tie.

    Args:
        grader: from (row, answer) to a number.
    """

    def __init__(self, grader: Grader = exact_match) -> None:
        self._grader = grader

    def __call__(self, matches: Sequence[Match]) -> list[float | None]:
        """Grade both answers of every match.

        Raises:
            UserError: a grade is NaN.
        """
        found: list[float | None] = []
        for row, first, second in matches:
            difference = float(self._grader(row, first)) - float(self._grader(row, second))
            if math.isnan(difference):
                raise invalid("grader", difference, "grades that can be compared")
            found.append(0.5 if difference == 0 else float(difference > 0))
        return found


class ModelJudge:
    """Asks a model which of two answers is better; its last verdict counts, none at all is None.

    Args:
        sampler: the judging model.
        renderer: of that model.
        question: what it is asked, with `{conversation}`, `{first}` and `{second}` in it; answers are read as
            "Verdict: A", "Verdict: B" or "Verdict: tie".
        max_tokens: longest answer of the judge, reasons included.
        temperature: 0 is greedy.
        seed: of the judge's sampling.

    Raises:
        UserError: `question` has no place for the conversation or an answer.
    """

    def __init__(
        self,
        sampler: SamplingClient,
        renderer: Renderer,
        question: str = QUESTION,
        *,
        max_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        for place in ("{conversation}", "{first}", "{second}"):
            if place not in question:
                raise invalid("question", question, f"a text with {place} in it")
        self._sampler = sampler
        self._renderer = renderer
        self._question = question
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._seed = seed

    def __call__(self, matches: Sequence[Match]) -> list[float | None]:
        """Ask about all matches side by side."""
        questions = [[{"role": "user", "content": self._ask(match)}] for match in matches]
        answers = sample_answers(
            self._sampler,
            self._renderer,
            questions,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed,
        )
        return [read_verdict(answer) for answer in answers]

    def _ask(self, match: Match) -> str:
        lines = [f"{message['role']}: {message['content']}" for message in asked(match.row, "row")]
        places = {"{conversation}": "\n".join(lines), "{first}": match.first, "{second}": match.second}
        # In one pass, so that an answer which spells a place is not filled in.
        return re.sub(r"\{(?:conversation|first|second)\}", lambda found: places[found[0]], self._question)


def read_verdict(answer: str) -> float | None:
    """Return the last verdict of a judge's answer: 1 for A, 0 for B, 0.5 for a tie, None for none."""
    # The last one: while it gives its reasons, a judge may weigh a verdict that it then drops.
    found = _VERDICT.findall(answer)
    return _VALUES[found[-1].lower()] if found else None
