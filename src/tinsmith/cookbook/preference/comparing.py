"""Evaluations by comparison: a reward model as judge, and the policy against the answers in the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.answers import spoken
from tinsmith.cookbook.eval import Judge, Match, WinRateEvaluator
from tinsmith.cookbook.eval.accuracy import asked
from tinsmith.cookbook.preference.comparison import read_comparison
from tinsmith.cookbook.preference.reward_model import RewardModel


class RewardModelJudge:
    """Compares answers by their scores: the verdict is the probability that the first is preferred.

    Args:
        reward_model: scores every answer once for each place that it is shown in.
    """

    def __init__(self, reward_model: RewardModel) -> None:
        self._reward_model = reward_model

    def __call__(self, matches: Sequence[Match]) -> list[float | None]:
        """Return sigmoid(r_first - r_second) of every match (Bradley and Terry 1952)."""
        answers: dict[tuple[int, str], tuple[Any, str]] = {}
        for row, *both in matches:
            for answer in both:
                answers[(id(row), answer)] = (asked(row, "row"), answer)
        # Each answer once, though both orders of a pair are asked about.
        scores = dict(zip(answers, self._reward_model.scores(list(answers.values())), strict=True))
        return [_sigmoid(scores[(id(row), first)] - scores[(id(row), second)]) for row, first, second in matches]


class ComparisonEvaluator(WinRateEvaluator):
    """Lets a judge compare the policy's answers with the chosen ones of held-out comparisons.

    Gives what `WinRateEvaluator` gives: `eval/NAME`, the win rate with ties counted one half, `/stderr`, `/low`,
    `/high`, `/inconsistent`, ... To compare with the base model's answers, use `WinRateEvaluator` itself.

    Args:
        rows: held-out comparisons.
        judge: `RewardModelJudge`, `ModelJudge` for a model that is asked in words, or one's own.
        name: what the metrics are called behind `eval/`.
        max_tokens: longest answer of the policy.
        temperature: of it; 0 is greedy.

    Raises:
        UserError: there are no rows, or one is no comparison.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        judge: Judge,
        name: str = "win_rate_against_chosen",
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
    ) -> None:
        comparisons = [read_comparison(row) for row in rows]
        questions = [
            {"messages": comparison.prompt, **({"tools": comparison.tools} if comparison.tools else {})}
            for comparison in comparisons
        ]
        super().__init__(
            questions,
            judge,
            name,
            max_tokens=max_tokens,
            temperature=temperature,
            opponents=[spoken(comparison.chosen[0]) for comparison in comparisons],
        )


def _sigmoid(value: float) -> float:
    # From the side on which exp does not overflow.
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
