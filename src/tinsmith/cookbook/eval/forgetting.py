"""What fine-tuning cost elsewhere: the base model and the tuned one on a set that the training was not about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinsmith import SamplingClient
from tinsmith.cookbook.batches.examples import row_to_datums
from tinsmith.cookbook.batches.loss_metrics import compute_mean_nll
from tinsmith.cookbook.completers import sample_answers
from tinsmith.cookbook.eval.accuracy import Grader, asked, exact_match, grade_of
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.types.errors import invalid


class _Measured(NamedTuple):
    nll: float
    answers: list[str]
    grades: list[float]


class ForgettingEvaluator:
    """Gives the same numbers of the base model and of the tuned one, and how much worse the second is.

    `forgetting/NAME/base_nll`, `/tuned_nll` and `/nll_rise`: nats per token of the answers, by the sampler's own
    logprobs for both models; `/base_accuracy`, `/tuned_accuracy` and `/accuracy_drop`: mean grade of greedy answers.
    The base model is asked once, however often the tuned one is evaluated.

    Args:
        rows: conversations that end with a good answer (texts too, without a grader); `datasets.general.rows()` for the
            embedded model.
        name: stands in the middle of the metrics' names.
        grader: from (row, answer) to 0 ... 1; None measures the NLL alone, for sets without one right answer.
        max_tokens: longest answer.
        max_length: tokens kept of a longer row for the NLL; None keeps what the model reads.
        shown: answers which the base model got better that the transcript shows.

    Raises:
        UserError: there are no rows, or one has nothing to ask although there is a grader.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        name: str = "general",
        *,
        grader: Grader | None = exact_match,
        max_tokens: int = 256,
        max_length: int | None = None,
        shown: int = 12,
    ) -> None:
        if not rows:
            raise invalid("rows", rows, "at least one row")
        self.name = name
        self._rows = list(rows)
        self._grader = grader
        self._asked = [asked(row, f"rows[{index}]") for index, row in enumerate(self._rows)] if grader else []
        self._tools = [row.get("tools") for row in self._rows]
        self._max_tokens = max_tokens
        self._max_length = max_length
        self._shown = shown
        self._base: dict[tuple[str, int], _Measured] = {}

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Measure both models, a base only the first time."""
        # An evaluator may be given to several runs; a base asked with another seed may answer otherwise.
        key = (context.model_name, context.seed)
        if key not in self._base:
            self._base[key] = self._measure(context.base_client, context)
        base, tuned = self._base[key], self._measure(context.sampling_client, context)
        found = {"base_nll": base.nll, "tuned_nll": tuned.nll, "nll_rise": tuned.nll - base.nll}
        if self._grader:
            before, after = _mean(base.grades), _mean(tuned.grades)
            found |= {"base_accuracy": before, "tuned_accuracy": after, "accuracy_drop": before - after}
            if context.transcript is not None:
                context.transcript.heading(f"{self.name}: {before:.1%} before, {after:.1%} now")
                context.transcript.table(self._forgotten(base, tuned))
        return {f"forgetting/{self.name}/{key}": value for key, value in found.items()}

    def _measure(self, sampler: SamplingClient, context: EvalContext) -> _Measured:
        nll = self._nll(sampler, context)
        if self._grader is None:
            return _Measured(nll, [], [])
        answers = sample_answers(
            sampler, context.renderer, self._asked, max_tokens=self._max_tokens, seed=context.seed, tools=self._tools
        )
        grades = [grade_of(self._grader, row, answer) for row, answer in zip(self._rows, answers, strict=True)]
        return _Measured(nll, answers, grades)

    def _forgotten(self, base: _Measured, tuned: _Measured) -> list[dict[str, object]]:
        worse = [i for i, grade in enumerate(tuned.grades) if grade < base.grades[i]]
        return [
            {"question": self._asked[i][-1]["content"], "base": base.answers[i], "tuned": tuned.answers[i]}
            for i in worse[: self._shown]
        ]

    def _nll(self, sampler: SamplingClient, context: EvalContext) -> float:
        """Return the mean NLL per learned token, in nats; a sampling client gives it for a model without an adapter."""
        # A prompt leaves room for one token.
        limits = [self._max_length, None if context.context_length is None else context.context_length - 1]
        kept = min((limit for limit in limits if limit is not None), default=None)
        # The answers' own tokens as the tuned model would be trained on them: the same for both models, so that only
        # the weights differ.
        rendered = (row_to_datums(row, context.renderer, context.tokenizer, kept) for row in self._rows)
        datums = [datum for some in rendered for datum in some]
        targets = [datum.loss_fn_inputs["target_tokens"].to_numpy() for datum in datums]
        futures = [
            # A datum has its T - 1 inputs and T - 1 targets; the whole text of T tokens is the inputs and the last
            # target.
            sampler.compute_logprobs([*datum.model_input.to_ints(), int(target[-1])])
            for datum, target in zip(datums, targets, strict=True)
        ]
        # The first token has no logprob, since nothing comes before it.
        logprobs = [[float(value or 0.0) for value in future.result()[1:]] for future in futures]
        return compute_mean_nll(logprobs, [datum.loss_fn_inputs["weights"] for datum in datums])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
