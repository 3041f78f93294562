"""The loop of every trainer: one step after the other, with evaluations and checkpoints where they are due.

    finished already? ─ yes → what it came to
    for each step that is left:
        evaluate, if due                 (the step before has been waited for; a snapshot is measured beside the rest)
        submit the step                  (nothing is waited for)
        submit a checkpoint, if due      (of the weights after this step: the service keeps the order)
        wait for the step before, log its row, record the checkpoints that stand on it
    wait for the last step, evaluate, save

A row is on disk before any checkpoint that counts on it is on record. So a run that is killed at any point carries on
from a state whose rows are all there, and does anew only what leaves the same rows behind.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from tinsmith import TrainingClient
from tinsmith.cookbook.eval import EvaluationError
from tinsmith.cookbook.runs import Run, Transcript
from tinsmith.cookbook.runs.interrupts import asked_twice, interruptible, uninterrupted
from tinsmith.cookbook.training.evaluation import Evaluation
from tinsmith.cookbook.training.learning_rates import LearningRates
from tinsmith.cookbook.training.train_result import TrainResult, result_of
from tinsmith.types.errors import TinsmithError

logger = logging.getLogger("tinsmith.cookbook")


class SubmittedStep(ABC):
    """A step whose operations the service has."""

    @abstractmethod
    def metrics(self) -> Mapping[str, float]:
        """Wait for the step's results and return its row of metrics, `learning_rate` among them."""

    def show(self, page: Transcript) -> None:  # noqa: B027, most steps have nothing to show
        """Add what is worth reading to the page of a step before which an evaluation was due; `metrics` came first."""


class Trainer(Protocol):
    """What the loop needs of a trainer."""

    def start(self, client: TrainingClient) -> None:
        """Take the client of the adapter, before the first step of this start of the run."""
        ...

    def submit(self, step: int) -> SubmittedStep:
        """Submit all operations of a step, in their order, without waiting for their results.

        What is submitted follows from the step and the weights alone, seeds included: a run that was killed submits
        steps anew.
        """
        ...


@dataclass
class _Waiting:
    """A step to be waited for, what was measured just before it, and the page of that evaluation."""

    step: int
    submitted: SubmittedStep
    measured: Future[dict[str, float]] | None
    page: Transcript | None


def run_trainer(
    trainer: Trainer, run: Run, rates: LearningRates, evaluation: Evaluation, facts: Mapping[str, object]
) -> TrainResult:
    """Do the steps that are left, evaluate and save.

    Args:
        trainer: submits the steps.
        run: the run, entered.
        rates: the plan of the learning rate; it knows the number of steps.
        evaluation: what is measured before the first step, every so many steps, and after the last.
        facts: what to tell at the start beside rate and steps: rows, renderer, ...

    Returns:
        What the run came to; of a run that was finished already, too.

    Raises:
        UserError: the run has done more steps than it is to have.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same command carries on.
        TinsmithError: the service failed.
    """
    total = rates.total
    if run.is_finished(total):
        return result_of(run, total, run.logged(total))
    run.announce(total, rates.peak, facts)
    rates.warn_of_change(run)
    client = run.training_client()
    trainer.start(client)
    try:
        return _Loop(trainer, run, evaluation, client).to_the_end(total)
    finally:
        evaluation.close()


class _Loop:
    def __init__(self, trainer: Trainer, run: Run, evaluation: Evaluation, client: TrainingClient) -> None:
        self._trainer = trainer
        self._run = run
        self._evaluation = evaluation
        self._client = client
        self._waiting: _Waiting | None = None
        self._submitted = run.first_step
        self._logged_at = time.perf_counter()

    def to_the_end(self, total: int) -> TrainResult:
        try:
            return self._to_the_end(total)
        except KeyboardInterrupt:
            # Asked twice, nobody wants to wait, and what has been submitted of a step is not known.
            if not asked_twice():
                self._save_done()
            raise

    def _to_the_end(self, total: int) -> TrainResult:
        for step in self._run.steps(total):
            measured, page = None, None
            if self._evaluation.is_due(step):
                # The evaluation asks the weights as they are: all steps before it have to be in its rows.
                self._finish()
                page = self._run.transcript(step)
                with interruptible():
                    measured = self._evaluation.begin(step, self._client, page)
            submitted = self._trainer.submit(step)
            self._submitted = step + 1
            # Between this step's operations and the next one's: the service runs them in the order they come in.
            self._run.save_due(step + 1, self._client)
            # Only now, so that the service has the next step to do while this process reads results and renders.
            self._finish()
            self._waiting = _Waiting(step, submitted, measured, page)
        with uninterrupted():
            self._finish()
        with self._run.transcript(total) as page:
            measured = self._evaluation.measure(total, self._client, page)
        self._run.log_metrics(total, measured)
        self._run.save_final(total, self._client)
        return result_of(self._run, total, measured)

    def _save_done(self) -> None:
        """Save the weights after the last step that was submitted whole; those before it have been waited for."""
        with uninterrupted():
            try:
                self._finish()
            except (TinsmithError, EvaluationError) as error:
                logger.warning(f"the last step is not counted ({error})")
                return
            self._run.save_done(self._submitted, self._client)

    def _finish(self) -> None:
        """Wait for the step before, log its row, and record the checkpoints that were asked for before it."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        metrics = waiting.submitted.metrics()
        measured = waiting.measured.result() if waiting.measured is not None else {}
        now = time.perf_counter()
        elapsed, self._logged_at = now - self._logged_at, now
        self._run.log_metrics(waiting.step, {**measured, **metrics, "time/step": elapsed})
        # Not the checkpoint after this step, which the service may still be writing: those before it.
        self._run.settle(waiting.step)
        if waiting.page is not None:
            with waiting.page as page:
                waiting.submitted.show(page)
