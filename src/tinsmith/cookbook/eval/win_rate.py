"""How often the tuned model's answer is better than the base model's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from tinsmith.cookbook.completers import sample_answers
from tinsmith.cookbook.eval.accuracy import asked
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.cookbook.eval.judges import Judge, Match
from tinsmith.types.errors import invalid

# Between win and loss: a judge that says nothing must favour nobody.
_NO_VERDICT = 0.5


class WinRateEvaluator:
    """Lets a judge compare the tuned model's answers with the base model's, each pair in both orders.

    A pair's score is the mean of its two verdicts, so that a judge who always prefers the first answer decides nothing.
    `eval/NAME` is the mean score, a tie counting one half, with `/stderr`, its standard error, and `/low` and `/high`,
    its 95 % interval; `/win`, `/tie` and `/loss` are shares of the questions; `/inconsistent` is the share whose
    verdict depended on the order, and `/no_verdict` that of comparisons which the judge left open (counted as ties).

    Args:
        rows: conversations; an answer of the assistant at the end is shown to the judge only, with the rest of the row.
        judge: from matches to verdicts, e.g. `judges.GradedJudge` or `judges.ModelJudge`.
        name: what the metrics are called behind `eval/`.
        max_tokens: longest answer.
        temperature: of both models' answers; 0 is greedy.
        shown: pairs that the transcript shows.
        opponents: an answer to each row, to compare with; None samples the base model's.

    Raises:
        UserError: there are no rows, one is no conversation, or there is another number of opponents.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        judge: Judge,
        name: str = "win_rate",
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        shown: int = 8,
        opponents: Sequence[str] | None = None,
    ) -> None:
        if not rows:
            raise invalid("rows", rows, "at least one row")
        if opponents is not None and len(opponents) != len(rows):
            raise invalid("opponents", f"{len(opponents)} answers", f"{len(rows)}, one to each row")
        self.name = name
        self._rows = list(rows)
        self._asked = [asked(row, f"rows[{index}]") for index, row in enumerate(self._rows)]
        self._tools = [row.get("tools") for row in self._rows]
        self._judge = judge
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._shown = shown
        self._opponents = None if opponents is None else list(opponents)
        self._base: dict[tuple[str, int], list[str]] = {}

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Sample both models, a base only the first time, and have every pair judged twice.

        Raises:
            UserError: the judge gave another number of verdicts than there were matches, or one outside 0 ... 1.
        """
        theirs_of_all = self._answers_to_beat(context)
        tuned = context.answers(
            self._asked, max_tokens=self._max_tokens, temperature=self._temperature, tools=self._tools
        )
        pairs = list(zip(self._rows, tuned, theirs_of_all, strict=True))
        # First all pairs one way, then all the other way: `tally` finds the two of a pair by their places.
        matches = [Match(row, ours, theirs) for row, ours, theirs in pairs]
        matches += [Match(row, theirs, ours) for row, ours, theirs in pairs]
        verdicts = _checked(self._judge(matches), len(matches))
        found = tally(verdicts)
        if context.transcript is not None:
            context.transcript.heading(f"{self.name}: {found['']:.1%} of {len(pairs)}")
            shown = zip(self._asked, tuned, theirs_of_all, scores_of(verdicts), strict=True)
            other = "base" if self._opponents is None else "given"
            context.transcript.table(
                [
                    {"question": question[-1]["content"], "tuned": ours, other: theirs, "score": score}
                    for question, ours, theirs, score in list(shown)[: self._shown]
                ]
            )
        return {f"eval/{self.name}{key}": value for key, value in found.items()}

    def _answers_to_beat(self, context: EvalContext) -> list[str]:
        """Return the answers that were given, else the base model's, which are sampled once."""
        if self._opponents is not None:
            return self._opponents
        key = (context.model_name, context.seed)
        if key not in self._base:
            self._base[key] = sample_answers(
                context.base_client,
                context.renderer,
                self._asked,
                max_tokens=self._max_tokens,
                temperature=self._temperature,
                seed=context.seed,
                tools=self._tools,
            )
        return self._base[key]


def tally(verdicts: Sequence[float | None]) -> dict[str, float]:
    """Sum up the verdicts of n pairs, first all in one order, then all in the other.

    Args:
        verdicts: 2n values: 1 for the first answer, 0 for the second, 0.5 for a tie, None for no verdict.
    """
    count = len(verdicts) // 2
    pairs = _both_ways(verdicts)
    scores = scores_of(verdicts)
    mean = sum(scores) / count
    low, high = wilson_interval(mean, count)
    return {
        "": mean,
        "/stderr": standard_error(scores),
        "/low": low,
        "/high": high,
        "/win": sum(score > 0.5 for score in scores) / count,
        "/tie": sum(score == 0.5 for score in scores) / count,
        "/loss": sum(score < 0.5 for score in scores) / count,
        "/inconsistent": sum(there != back for there, back in pairs) / count,
        "/no_verdict": sum(verdict is None for verdict in verdicts) / len(verdicts),
    }


def scores_of(verdicts: Sequence[float | None]) -> list[float]:
    """Return the score of each pair, 0 ... 1, from verdicts as `tally` takes them."""
    return [(there + back) / 2 for there, back in _both_ways(verdicts)]


def standard_error(scores: Sequence[float]) -> float:
    """Return the standard error of the mean of scores; 0 where there is only one."""
    return stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0


def _both_ways(verdicts: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return what each pair's two verdicts say of the tuned model."""
    count = len(verdicts) // 2
    # [2n]: n verdicts with the tuned answer first, n with the base's first, whose meaning is turned round.
    values = [_NO_VERDICT if verdict is None else float(verdict) for verdict in verdicts]
    return [(there, 1.0 - back) for there, back in zip(values[:count], values[count:], strict=True)]


def wilson_interval(mean: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return an interval of a mean of `count` values in 0 ... 1.

    Wilson's score interval (Wilson 1927, "Probable inference, the law of succession, and statistical inference"). It is
    that of yes-or-no outcomes; values in between vary less, so that with ties it is wider than it has to be.

    Args:
        mean: of the values.
        count: how many.
        z: quantile of the normal distribution; 1.96 covers 95 %.
    """
    centre = mean + z * z / (2 * count)
    spread = z * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _checked(verdicts: Sequence[float | None], expected: int) -> list[float | None]:
    if len(verdicts) != expected:
        raise invalid("judge", f"{len(verdicts)} verdicts", f"{expected}, one per match")
    for verdict in verdicts:
        if verdict is not None and not 0.0 <= verdict <= 1.0:
            raise invalid("judge", verdict, "1 (first answer), 0 (second), a number between, or None")
    return list(verdicts)
