"""Off-policy distillation: the student learns what its teachers said, or what they might have said at each place."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith import APIFuture, Datum, ForwardBackwardOutput, OptimStepResponse, TensorData, TrainingClient
from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.batches.loss_metrics import compute_mean_nll
from tinsmith.cookbook.distillation.config import DistillationConfig
from tinsmith.cookbook.distillation.prompts import Lesson
from tinsmith.cookbook.distillation.reverse_kl import soft_targets
from tinsmith.cookbook.distillation.teachers import Scored, ask_each
from tinsmith.cookbook.renderers import SupervisedExample
from tinsmith.cookbook.runs import Transcript
from tinsmith.cookbook.supervised.pages import show_examples
from tinsmith.cookbook.training import LearningRates, ModelSetup, SubmittedStep


@dataclass
class SubmittedAnswers(SubmittedStep):
    """A batch of answers that the service has.

    Attributes:
        batch: the answers as they were said.
        datums: what is learned of each.
        learning_rate: of the optimizer step.
        forward_backward, optim_step: the results to wait for.
        tokenizer: spells the tokens of examples that are shown.
        facts: numbers that were known when the step was submitted.
    """

    batch: Batch
    datums: list[Datum]
    learning_rate: float
    forward_backward: APIFuture[ForwardBackwardOutput]
    optim_step: APIFuture[OptimStepResponse]
    tokenizer: Any
    facts: dict[str, float] = field(default_factory=dict[str, float])

    def metrics(self) -> Mapping[str, float]:
        """Wait for both operations and return the loss, that of each domain where there are several, and counts."""
        outputs = self.forward_backward.result().loss_fn_outputs
        learned: dict[str, list[tuple[Any, Any]]] = {}
        for row, datum, output in zip(self.batch.rows, self.datums, outputs, strict=True):
            pair = (output["logprobs"], datum.loss_fn_inputs["weights"])
            learned.setdefault("train/nll", []).append(pair)
            learned.setdefault(f"train/nll/{row['domain']}", []).append(pair)
        # Where every answer is of one domain, its loss is that of all.
        several = len(learned) > 2
        found = {
            name: compute_mean_nll(*zip(*pairs, strict=True))
            for name, pairs in learned.items()
            if several or name == "train/nll"
        }
        return {
            **found,
            **self.facts,
            "train/examples": len(self.datums),
            "train/trained_tokens": self.batch.trained_tokens,
            "train/truncated": self.batch.truncated,
            "epoch": self.batch.epoch,
            "learning_rate": self.learning_rate,
            **{f"optim/{name}": value for name, value in (self.optim_step.result().metrics or {}).items()},
        }

    def show(self, page: Transcript) -> None:
        """Show the first answers of the batch, token by token."""
        outputs = self.forward_backward.result().loss_fn_outputs
        if self.datums is self.batch.datums:
            show_examples(page, self.tokenizer, self.datums, outputs)
            return
        # Of soft targets the likeliest is shown, and how much of the teacher's probability it has.
        first = [
            Datum(
                model_input=datum.model_input,
                loss_fn_inputs={
                    name: TensorData.from_numpy(datum.loss_fn_inputs[name].to_numpy()[:, 0].copy())
                    for name in ("target_tokens", "weights")
                },
            )
            for datum in self.datums
        ]
        likeliest = [
            {"logprobs": TensorData.from_numpy(output["logprobs"].to_numpy()[:, 0].copy())} for output in outputs
        ]
        show_examples(page, self.tokenizer, first, likeliest)


class OffPolicyTrainer:
    """Learns the teachers' answers by cross-entropy, batch after batch.

    With `top_k=0` the targets are the tokens that a teacher said. With `top_k=k` they are its k likeliest tokens at
    each place of what it said, weighted by their probabilities, which are divided by their sum: cross-entropy with
    targets of two dimensions. The teachers are asked for these anew when a batch is made, so that nothing of the size
    of texts times k is kept anywhere.

    Args:
        config: batch size, and which targets.
        model: spells and renders.
        lessons: prompts with their teachers.
        answers: rows of `teacher_answers`.

    Attributes:
        rates: the plan of the learning rate over all steps.
    """

    def __init__(
        self,
        config: DistillationConfig,
        model: ModelSetup,
        lessons: Sequence[Lesson],
        answers: Sequence[Mapping[str, Any]],
    ) -> None:
        self._config = config
        self._tokenizer = model.tokenizer
        self._lessons = lessons
        self._batches = Batches(
            [dict(answer) for answer in answers],
            model.renderer,
            model.tokenizer,
            batch_size=config.batch_size * config.group_size,
            seed=config.seed,
            max_length=config.max_trajectory_tokens,
            examples=self._examples,
        )
        self.rates = LearningRates(config, self._batches.total_steps(config.epochs, config.max_steps))

    def start(self, client: TrainingClient) -> None:
        """Take the client, and what its model can read: longer answers are cut."""
        self._client = client
        self._batches.context_length = client.get_info().model_data.context_length

    def submit(self, step: int) -> SubmittedAnswers:
        """Make batch `step` and hand it to the service."""
        began = time.perf_counter()
        batch = self._batches.get(step)
        facts: dict[str, float] = {}
        datums = batch.datums
        if self._config.top_k:
            datums, facts = self._soft(batch)
        facts["time/data"] = time.perf_counter() - began
        return SubmittedAnswers(
            batch,
            datums,
            self.rates.at(step),
            self._client.forward_backward(datums, "cross_entropy"),
            self._client.optim_step(self.rates.adam_params(step)),
            self._tokenizer,
            facts,
        )

    def _examples(self, row: Mapping[str, Any]) -> list[SupervisedExample]:
        reads = self._lessons[row["prompt"]].student_reads
        return [SupervisedExample([*reads, *row["tokens"]], [0.0] * len(reads) + [1.0] * len(row["tokens"]))]

    def _soft(self, batch: Batch) -> tuple[list[Datum], dict[str, float]]:
        """Return the batch with the teachers' likeliest tokens as targets, and what is to be told of them."""
        lessons = [self._lessons[row["prompt"]] for row in batch.rows]
        texts = [Scored(lesson.teacher_reads, row["tokens"]) for lesson, row in zip(lessons, batch.rows, strict=True)]
        k = self._config.top_k
        likeliest = ask_each([each.teacher for each in lessons], texts, lambda teacher, own: teacher.likeliest(own, k))
        targets = [soft_targets(each.logprobs) for each in likeliest]
        datums = [
            _soft_datum(datum, len(lesson.student_reads) - 1, each.ids, weights)
            for datum, lesson, each, (weights, _) in zip(batch.datums, lessons, likeliest, targets, strict=True)
        ]
        mass = np.concatenate([mass for _, mass in targets])
        return datums, {"train/teacher_mass": float(mass.mean())}


def _soft_datum(datum: Datum, first: int, ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Datum:
    """Return a datum with K targets at each of its N positions.

    Args:
        datum: of one target each; cut where the model reads no more.
        first: position that predicts the first token of the answer.
        ids, weights: [S, K] of the answer's tokens.
    """
    length = datum.model_input.length
    learned = max(0, min(len(ids), length - first))
    targets = np.zeros((length, ids.shape[1]), np.int64)
    shares = np.zeros((length, ids.shape[1]), np.float32)
    targets[first : first + learned] = ids[:learned]
    shares[first : first + learned] = weights[:learned]
    return Datum(
        model_input=datum.model_input,
        loss_fn_inputs={"target_tokens": TensorData.from_numpy(targets), "weights": TensorData.from_numpy(shares)},
    )
