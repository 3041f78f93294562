"""Supervised training: each batch is submitted before the result of the one before is waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tinsmith import APIFuture, ForwardBackwardOutput, OptimStepResponse
from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.batches.held_out import split_held_out
from tinsmith.cookbook.batches.loss_metrics import loss_metrics
from tinsmith.cookbook.eval import EvalContext, EvaluationError, Evaluator, NLLEvaluator, SampledAnswers, run_evaluators
from tinsmith.cookbook.model_info import get_recommended_renderer_name
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.rows.sources import load_rows
from tinsmith.cookbook.runs import Run, due
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.runs.transcript import Transcript
from tinsmith.cookbook.schedules import check_warmup, rate_share
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.pages import show_examples
from tinsmith.cookbook.supervised.same_data import hold_to_data
from tinsmith.cookbook.utils import recommended_lr
from tinsmith.types.errors import UserError

# Settings that may change when a run is taken up again, beside those of every run.
FREE = ("epochs",)


class TrainResult(NamedTuple):
    """What a run came to.

    Attributes:
        path: the run's folder.
        steps: optimizer steps of the whole run.
        metrics: of the final evaluation.
        state_path: the final training state.
        sampler_path: the final weights, to sample from.
    """

    path: Path
    steps: int
    metrics: dict[str, float]
    state_path: str
    sampler_path: str


@dataclass
class _Submitted:
    """A batch that the service has, and what was measured just before it, with the page that shows it."""

    step: int
    batch: Batch
    learning_rate: float
    forward_backward: APIFuture[ForwardBackwardOutput]
    optim_step: APIFuture[OptimStepResponse]
    measured: dict[str, float]
    page: Transcript | None


def train(
    config: SupervisedConfig,
    recipe: str,
    *,
    rows: Sequence[Row] | RowStream | None = None,
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Train on rows, evaluate, and save; the same call on the same log path carries on where it stopped.

    Evaluations are done before the first batch, then every `eval_every` batches, and after the last.

    Args:
        config: the settings.
        recipe: name of the recipe, which its run is called after.
        rows: what to learn from; None takes what `config.data` names.
        evaluators: measured beside the loss on held-out rows.

    Returns:
        What the run came to; of a run that was finished already, too.

    Raises:
        UserError: a setting or a row cannot be used, or another run has the log path.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same call carries on.
        TinsmithError: the service failed.
    """
    with Run(config, recipe, free=FREE) as run:
        return Trainer(config, run, rows, evaluators).train()


class Trainer:
    """One supervised run, set up: for recipes whose evaluators need its renderer, its clients or its held-out rows.

    Args:
        config: the settings.
        run: the run, entered.
        rows, evaluators: as for `train`.

    Attributes:
        held_out: the rows that are kept from training.
        evaluators: all that will be measured; more may be added before `train`.

    Raises:
        UserError: a setting or a row cannot be used.
    """

    def __init__(
        self,
        config: SupervisedConfig,
        run: Run,
        rows: Sequence[Row] | RowStream | None,
        evaluators: Sequence[Evaluator],
    ) -> None:
        self.config = config
        self.run = run
        self.service = run.service_client()
        self.tokenizer = self.service.get_tokenizer(config.model_name)
        name = config.renderer_name or get_recommended_renderer_name(config.model_name, self.tokenizer)
        self.renderer = get_renderer(name, self.tokenizer)
        self.evaluators = list(evaluators)
        if rows is None:
            rows = load_rows(config.data, config.seed, self.renderer, config.train_on_what)
        hold_to_data(run, rows)
        rows, self.held_out = split_held_out(rows, config.held_out, config.seed)
        if self.held_out:
            nll = NLLEvaluator(self.held_out, max_length=config.max_length, train_on_what=config.train_on_what)
            samples = SampledAnswers(self.held_out, config.samples, max_tokens=config.max_tokens)
            self.evaluators = [nll, samples, *self.evaluators]
        self.batches = Batches(
            rows,
            self.renderer,
            self.tokenizer,
            batch_size=config.batch_size,
            seed=config.seed,
            max_length=config.max_length,
            train_on_what=config.train_on_what,
        )
        self.total = self.batches.total_steps(config.epochs, config.max_steps)
        check_warmup(config.warmup_steps, self.total)
        self.peak = recommended_lr(config.model_name) if config.learning_rate is None else config.learning_rate
        self._logged_at = time.perf_counter()

    def train(self) -> TrainResult:
        """Do the steps that are left, evaluate and save."""
        if self.run.is_finished(self.total):
            print(f"the run in {self.run.path} is finished; set epochs or max_steps higher, or choose another log_path")
            return self._recorded()
        self._announce()
        self.client = self.run.training_client()
        self.batches.context_length = self.client.get_info().model_data.context_length
        self._logged_at = time.perf_counter()
        waiting: _Submitted | None = None
        for step in self.run.steps(self.total):
            measured, page = {}, None
            if due(step, self.config.eval_every):
                self._finish(waiting)
                waiting = None
                page = self.run.transcript(step)
                measured = self._evaluate(step, page)
            submitted = self._submit(step, measured, page)
            self.run.save_due(step + 1, self.client)
            self._finish(waiting)
            waiting = submitted
        self._finish(waiting)
        with self.run.transcript(self.total) as page:
            measured = self._evaluate(self.total, page)
        self.run.log_metrics(self.total, measured)
        saved = self.run.save_final(self.total, self.client)
        return TrainResult(self.run.path, self.total, measured, *saved)

    def _announce(self) -> None:
        batches = self.batches
        facts: dict[str, object] = {"rows": "a stream"}
        if batches.per_epoch is not None and batches.left_out is not None:
            facts["rows"] = batches.per_epoch * batches.batch_size + batches.left_out
            facts["left out of each epoch"] = batches.left_out
        facts |= {"held out": len(self.held_out), "batch size": batches.batch_size, "renderer": self.renderer.name}
        self.run.announce(self.total, self.peak, facts)
        if self.run.first_step:
            self._check_schedule()

    def _check_schedule(self) -> None:
        """Warn where the rates so far are not those of this plan, because epochs or max_steps were changed."""
        last = self.run.first_step - 1
        logged = [row for row in read_rows(self.run.path / "metrics.jsonl") if row["step"] == last]
        planned = self._learning_rate(last)
        if logged and logged[0]["learning_rate"] != planned:
            warn_once(
                "schedule",
                f"lr_schedule: {self.config.lr_schedule} now spans {self.total} steps: the rate of step {last} was "
                f"{logged[0]['learning_rate']:g} and would have been {planned:g}; it goes on with the new plan's",
            )

    def _learning_rate(self, step: int) -> float:
        return self.peak * rate_share(self.config.lr_schedule, step, self.total, self.config.warmup_steps)

    def _submit(self, step: int, measured: dict[str, float], page: Transcript | None) -> _Submitted:
        started = time.perf_counter()
        batch = self.batches.get(step)
        measured["time/data"] = time.perf_counter() - started
        rate = self._learning_rate(step)
        return _Submitted(
            step,
            batch,
            rate,
            self.client.forward_backward(batch.datums, "cross_entropy"),
            self.client.optim_step(self.config.adam_params(rate)),
            measured,
            page,
        )

    def _finish(self, submitted: _Submitted | None) -> None:
        """Wait for a batch, log its row, and record the checkpoints that were asked for before it."""
        if submitted is None:
            return
        batch = submitted.batch
        outputs = submitted.forward_backward.result().loss_fn_outputs
        optimizer = submitted.optim_step.result().metrics or {}
        now = time.perf_counter()
        elapsed, self._logged_at = now - self._logged_at, now
        self.run.log_metrics(
            submitted.step,
            {
                **submitted.measured,
                **loss_metrics("train", outputs, batch.datums, batch.trained_bytes),
                "train/examples": len(batch.datums),
                "train/tokens": batch.tokens,
                "train/trained_tokens": batch.trained_tokens,
                "train/truncated": batch.truncated,
                "train/truncated_share": batch.truncated / len(batch.datums),
                "train/unlearnable": batch.unlearnable,
                "epoch": batch.epoch,
                "learning_rate": submitted.learning_rate,
                **{f"optim/{name}": value for name, value in optimizer.items()},
                "time/step": elapsed,
            },
        )
        self.run.settle(submitted.step)
        if submitted.page is not None:
            with submitted.page as page:
                show_examples(page, self.tokenizer, batch.datums, outputs)

    def _evaluate(self, step: int, page: Transcript) -> dict[str, float]:
        """Measure the weights after `step` steps, whose rows are logged."""
        self.run.settle(step)
        if not self.evaluators:
            return {}
        started = time.perf_counter()
        context = EvalContext(
            service_client=self.service,
            model_name=self.config.model_name,
            renderer=self.renderer,
            tokenizer=self.tokenizer,
            step=step,
            seed=self.config.seed,
            training_client=self.client,
            transcript=page,
        )
        try:
            found = run_evaluators(self.evaluators, context)
        except (EvaluationError, UserError):
            self.run.save_now(step, self.client)
            raise
        return {**found, "time/evaluation": time.perf_counter() - started}

    def _recorded(self) -> TrainResult:
        """Return what a finished run came to."""
        logged = [row for row in read_rows(self.run.path / "metrics.jsonl") if row["step"] == self.total]
        # Of an evaluation without numbers, or where somebody has removed the file, there is nothing to tell.
        measured = {name: value for row in logged for name, value in row.items() if name != "step"}
        final = [row for row in read_rows(self.run.path / "checkpoints.jsonl") if row.get("kind") == "final"][-1]
        return TrainResult(self.run.path, self.total, measured, final["state_path"], final["sampler_path"])
