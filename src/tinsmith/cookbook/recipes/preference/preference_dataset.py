"""What is asked of held-out prompts: answers whose worth is known by rule, and comparisons by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith import ServiceClient
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.datasets import sorted_letters
from tinsmith.cookbook.eval import AccuracyEvaluator, Evaluator, ModelJudge
from tinsmith.cookbook.preference import ComparisonEvaluator, Comparisons, RewardModel, RewardModelJudge
from tinsmith.cookbook.preference.comparison import read_comparison
from tinsmith.cookbook.preference.sources import SORTED_LETTERS
from tinsmith.cookbook.rows.row_kinds import Row

# A word of the longest length, twice, and the end of the turn.
_WORD_TOKENS = 2 * sorted_letters.LONGEST + 2


def longest_answer(comparisons: Comparisons, max_tokens: int) -> int:
    """Return the longest answer that is sampled, in tokens: for the set that ships, a bound of its own."""
    return min(max_tokens, _WORD_TOKENS) if comparisons.name == SORTED_LETTERS else max_tokens


def quality_of(row: Mapping[str, Any], answer: str) -> float | None:
    """Return what an answer to a row is worth by rule; None where nobody knows."""
    return sorted_letters.quality(row["word"], answer) if "word" in row else None


def quality_evaluators(comparisons: Comparisons, max_tokens: int) -> list[Evaluator]:
    """Return what grades sampled answers to held-out prompts by rule, as `eval/quality`; nothing for other data."""
    if comparisons.name != SORTED_LETTERS:
        return []
    questions = [{"messages": read_comparison(row).prompt, "word": row["word"]} for row in comparisons.test]
    return [
        AccuracyEvaluator(
            questions,
            lambda row, answer: sorted_letters.quality(row["word"], answer),
            name="quality",
            max_tokens=longest_answer(comparisons, max_tokens),
            # As the policy speaks, not only what it likes best: that is what preferences move.
            temperature=1.0,
        )
    ]


def judging_evaluators(
    service: ServiceClient,
    rows: Sequence[Row],
    max_tokens: int,
    judge_model: str | None = None,
    reward_model: str | None = None,
) -> list[Evaluator]:
    """Return what compares the policy's answers with the chosen ones, for each judge that is given.

    Raises:
        TinsmithError: the service has no such model or weights.
    """
    found: list[Evaluator] = []
    if judge_model is not None:
        judge = Completer.open(service, base_model=judge_model)
        asked = ModelJudge(judge.sampler, judge.renderer)
        found.append(ComparisonEvaluator(rows, asked, "win_rate", max_tokens=max_tokens))
    if reward_model is not None:
        scored = RewardModelJudge(RewardModel.open(service, reward_model))
        found.append(ComparisonEvaluator(rows, scored, "reward_win_rate", max_tokens=max_tokens))
    return found
