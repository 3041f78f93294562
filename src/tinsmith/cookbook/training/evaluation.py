"""The evaluations of a training run: when they are due, what they see, and that one that fails costs no step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tinsmith import TrainingClient
from tinsmith.cookbook.eval import EvalContext, EvaluationError, Evaluator, run_evaluators
from tinsmith.cookbook.runs import Run, RunConfig, Transcript, due
from tinsmith.cookbook.training.model_setup import ModelSetup
from tinsmith.types.errors import UserError


class Evaluation:
    """Measures the weights of a run while they are trained.

    Args:
        config: how often, and the seed that all of it is drawn from.
        run: takes a checkpoint before an error of an evaluator ends it.
        model: what evaluators ask the weights with.
        evaluators: run one after the other, in this order.
    """

    def __init__(self, config: RunConfig, run: Run, model: ModelSetup, evaluators: Sequence[Evaluator]) -> None:
        self._config = config
        self._run = run
        self._model = model
        self._evaluators = list(evaluators)

    def is_due(self, step: int) -> bool:
        """Return whether the weights before a step are measured; those after the last step always are."""
        return due(step, self._config.eval_every)

    def measure(self, step: int, client: TrainingClient, page: Transcript) -> dict[str, float]:
        """Measure the weights after `step` steps, whose rows are logged, and return the numbers.

        Args:
            step: steps that are done.
            client: whose weights.
            page: for what evaluators want read; the caller writes it.

        Raises:
            EvaluationError: an evaluator raised; the state is saved, and the same command carries on at this step.
            UserError: an evaluator gave what is no metric; the state is saved likewise.
        """
        # An evaluation may take an hour: what was asked for before it goes on record first.
        self._run.settle(step)
        if not self._evaluators:
            return {}
        started = time.perf_counter()
        context = EvalContext(
            service_client=self._model.service,
            model_name=self._config.model_name,
            renderer=self._model.renderer,
            tokenizer=self._model.tokenizer,
            step=step,
            seed=self._config.seed,
            training_client=client,
            # One page for all evaluators of a step; the batch after it adds its examples.
            transcript=page,
        )
        try:
            found = run_evaluators(self._evaluators, context)
        except (EvaluationError, UserError):
            # The weights are whole, and an hour of training with them: the same command goes on here once the evaluator
            # is mended.
            self._run.save_now(step, client)
            raise
        return {**found, "time/evaluation": time.perf_counter() - started}
