"""The evaluations of a training run: when they are due, what they see, and that one that fails costs no step.

Most evaluators ask the weights as they are, and training waits for them. One that asks nothing but the sampler says so
with `on_snapshot = True`: it gets a snapshot, and training goes on beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tinsmith import SamplingClient, TrainingClient
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
        # One thread: evaluations follow each other, and their evaluators do.
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="tinsmith-evaluation")

    def is_due(self, step: int) -> bool:
        """Return whether the weights before a step are measured; those after the last step always are."""
        return due(step, self._config.eval_every)

    def begin(self, step: int, client: TrainingClient, page: Transcript) -> Future[dict[str, float]]:
        """Begin to measure the weights after `step` steps, whose rows are logged; return a future of the numbers.

        It is done already where all evaluators need training to stand still.

        Args:
            step: steps that are done.
            client: whose weights.
            page: for what evaluators want read; the caller writes it once the future is done.

        Raises:
            EvaluationError: an evaluator that training waits for raised; the state is saved, and the same command
                carries on at this step. The future raises it for the others; then the run carries on from its last
                checkpoint.
            UserError: an evaluator gave what is no metric; likewise.
        """
        still = [evaluator for evaluator in self._evaluators if not getattr(evaluator, "on_snapshot", False)]
        beside = [evaluator for evaluator in self._evaluators if getattr(evaluator, "on_snapshot", False)]
        found: Future[dict[str, float]] = Future()
        measured = self._measure(step, client, page, still)
        if not beside:
            found.set_result(measured)
            return found
        # Taken now, between the steps before and after; the service keeps that order.
        context = self._context(step, client, page, client.save_weights_and_get_sampling_client())
        return self._beside.submit(lambda: _timed(beside, context, measured))

    def measure(self, step: int, client: TrainingClient, page: Transcript) -> dict[str, float]:
        """Measure the weights after `step` steps, whose rows are logged, and return the numbers; arguments as `begin`.

        Raises:
            EvaluationError: an evaluator raised; the state is saved, and the same command carries on at this step.
            UserError: an evaluator gave what is no metric; the state is saved likewise.
        """
        return self._measure(step, client, page, self._evaluators)

    def close(self) -> None:
        """Let go of the thread; an evaluation that is going on ends with the service's client."""
        self._beside.shutdown(wait=False, cancel_futures=True)

    def _measure(
        self, step: int, client: TrainingClient, page: Transcript, evaluators: Sequence[Evaluator]
    ) -> dict[str, float]:
        # An evaluation may take an hour: what was asked for before it goes on record first.
        self._run.settle(step)
        if not evaluators:
            return {}
        try:
            return _timed(evaluators, self._context(step, client, page))
        except (EvaluationError, UserError):
            # The weights are whole, and an hour of training with them: the same command goes on here once the evaluator
            # is mended.
            self._run.save_now(step, client)
            raise

    def _context(
        self, step: int, client: TrainingClient, page: Transcript, snapshot: SamplingClient | None = None
    ) -> EvalContext:
        return EvalContext(
            service_client=self._model.service,
            model_name=self._config.model_name,
            renderer=self._model.renderer,
            tokenizer=self._model.tokenizer,
            step=step,
            seed=self._config.seed,
            training_client=client,
            snapshot=snapshot,
            # One page for all evaluators of a step; the batch after it adds its examples.
            transcript=page,
        )


def _timed(
    evaluators: Sequence[Evaluator], context: EvalContext, before: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the numbers of evaluators, and the seconds they took, added to those `before`."""
    started = time.perf_counter()
    found = {**(before or {}), **run_evaluators(evaluators, context)}
    return {**found, "time/evaluation": found.get("time/evaluation", 0.0) + time.perf_counter() - started}
