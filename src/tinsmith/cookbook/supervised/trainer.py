"""The supervised trainer: a step is one batch of rows, one forward-backward and one optimizer step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith import APIFuture, ForwardBackwardOutput, OptimStepResponse, TrainingClient
from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.batches.loss_metrics import loss_metrics
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.runs import Transcript
from tinsmith.cookbook.supervised.config import RowTrainingConfig
from tinsmith.cookbook.supervised.pages import show_examples
from tinsmith.cookbook.training import LearningRates, ModelSetup, SubmittedStep


@dataclass
class SubmittedBatch(SubmittedStep):
    """A batch that the service has.

    Attributes:
        batch: its datums, and what was counted of them.
        learning_rate: of its optimizer step.
        data_seconds: that choosing and rendering its rows took.
        forward_backward, optim_step: the results to wait for.
        tokenizer: spells the tokens of examples that are shown.
    """

    batch: Batch
    learning_rate: float
    data_seconds: float
    forward_backward: APIFuture[ForwardBackwardOutput]
    optim_step: APIFuture[OptimStepResponse]
    tokenizer: Any

    def metrics(self) -> dict[str, float]:
        """Wait for both operations and return loss, counts, rate and what the optimizer tells."""
        # The order of the names is the order in which the console and the file show them: the loss first.
        batch = self.batch
        outputs = self.forward_backward.result().loss_fn_outputs
        optimizer = self.optim_step.result().metrics or {}
        return {
            "time/data": self.data_seconds,
            **loss_metrics("train", outputs, batch.datums, batch.trained_bytes),
            "train/examples": len(batch.datums),
            "train/tokens": batch.tokens,
            "train/trained_tokens": batch.trained_tokens,
            "train/truncated": batch.truncated,
            "train/truncated_share": batch.truncated / len(batch.datums),
            "train/unlearnable": batch.unlearnable,
            "epoch": batch.epoch,
            "learning_rate": self.learning_rate,
            **{f"optim/{name}": value for name, value in optimizer.items()},
        }

    def show(self, page: Transcript) -> None:
        """Show the first examples of the batch, token by token with weights and logprobs."""
        show_examples(page, self.tokenizer, self.batch.datums, self.forward_backward.result().loss_fn_outputs)


class SupervisedTrainer:
    """Learns rows by cross-entropy, batch after batch.

    Args:
        config: batch size, epochs, what is learned of a row, and the optimizer.
        model: renders the rows.
        rows: what to learn from, without what is held out.

    Attributes:
        batches: the rows as batches by number.
        rates: the plan of the learning rate over all of them.

    Raises:
        UserError: a row or a setting cannot be used.
    """

    def __init__(self, config: RowTrainingConfig, model: ModelSetup, rows: Sequence[Row] | RowStream) -> None:
        self._tokenizer = model.tokenizer
        usual = config.usual_batch_size
        # A stream has no size of its own.
        size = None if isinstance(rows, RowStream) else as_rows(rows).epoch_size
        self.batches = Batches(
            rows,
            model.renderer,
            model.tokenizer,
            batch_size=config.batch_size or (usual if size is None else rows_per_batch(None, size, usual)),
            seed=config.seed,
            max_length=config.max_length,
            train_on_what=config.train_on_what,
        )
        self.rates = LearningRates(config, self.batches.total_steps(config.epochs, config.max_steps))

    def start(self, client: TrainingClient) -> None:
        """Take the client, and what its model can read: longer examples are cut."""
        self._client = client
        self.batches.context_length = client.get_info().model_data.context_length

    def submit(self, step: int) -> SubmittedBatch:
        """Render batch `step` and hand it to the service."""
        started = time.perf_counter()
        batch = self.batches.get(step)
        data_seconds = time.perf_counter() - started
        # Forward-backward and optimizer step at once: the service runs them in order, and waits for nobody in between.
        return SubmittedBatch(
            batch,
            self.rates.at(step),
            data_seconds,
            self._client.forward_backward(batch.datums, "cross_entropy"),
            self._client.optim_step(self.rates.adam_params(step)),
            self._tokenizer,
        )
