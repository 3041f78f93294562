"""Evaluation: `eval_context` is what an evaluator sees; one of your own is a function from it to named numbers.

`nll` (loss on held-out rows), `accuracy` (graded answers), `samples` (answers to read), `forgetting` and `win_rate`
(against the base model, with `judges`); `inspect_*` (tasks of Inspect AI) and their command, `run_inspect`.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.eval.accuracy import AccuracyEvaluator, Grader, exact_match
from tinsmith.cookbook.eval.eval_context import EvalContext, EvaluationError, Evaluator, run_evaluators
from tinsmith.cookbook.eval.forgetting import ForgettingEvaluator
from tinsmith.cookbook.eval.inspect_tasks import InspectEvaluator
from tinsmith.cookbook.eval.judges import GradedJudge, Judge, Match, ModelJudge
from tinsmith.cookbook.eval.nll import NLLEvaluator
from tinsmith.cookbook.eval.samples import SampledAnswers
from tinsmith.cookbook.eval.win_rate import WinRateEvaluator

__all__ = [
    "AccuracyEvaluator",
    "EvalContext",
    "EvaluationError",
    "Evaluator",
    "ForgettingEvaluator",
    "GradedJudge",
    "Grader",
    "InspectEvaluator",
    "Judge",
    "Match",
    "ModelJudge",
    "NLLEvaluator",
    "SampledAnswers",
    "WinRateEvaluator",
    "exact_match",
    "run_evaluators",
]
