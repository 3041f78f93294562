"""What the trainers of comparisons share: batches of pairs, steps of them, and the run around both."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith import APIFuture, Datum, ForwardBackwardOutput, OptimStepResponse, TrainingClient
from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.eval import Evaluator
from tinsmith.cookbook.preference.config import ComparisonConfig
from tinsmith.cookbook.preference.pair_examples import PairExamples
from tinsmith.cookbook.preference.sources import Comparisons
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.runs import Run, Transcript
from tinsmith.cookbook.token_text import token_texts
from tinsmith.cookbook.training import (
    Evaluation,
    LearningRates,
    ModelSetup,
    SubmittedStep,
    TrainResult,
    run_trainer,
)
from tinsmith.types.tensor import TensorData

Output = Mapping[str, TensorData]
Reward = Callable[[Datum, Output], float]

# What a loss over pairs tells, as means over the pairs; its loss is a sum.
_TOLD = ("accuracy", "margin", "chosen_reward", "rejected_reward")
# Pairs of a batch that a transcript shows.
_SHOWN = 8


def pair_metrics(name: str, output: ForwardBackwardOutput, pairs: int) -> dict[str, float]:
    """Return `NAME/loss`, the mean over pairs, and accuracy, margin and rewards.

    `accuracy` is the share of pairs in which the chosen answer has the larger reward, `margin` the mean difference of
    the two rewards.
    """
    metrics = output.metrics
    return {
        f"{name}/loss": metrics["loss:sum"] / pairs,
        **{f"{name}/{told}": metrics[f"{told}:mean"] for told in _TOLD if f"{told}:mean" in metrics},
    }


@dataclass
class SubmittedPairs(SubmittedStep):
    """A batch of pairs that the service has.

    Attributes:
        batch: its rows, and what was counted of them.
        datums: chosen and rejected in turn.
        learning_rate: of its optimizer step.
        facts: counts of pairs that were cut or left out so far, and the seconds that rendering took.
        forward_backward, optim_step: the results to wait for.
        tokenizer: spells the tokens of pairs that are shown.
        reward: of a datum, from what the service gave of it.
    """

    batch: Batch
    datums: list[Datum]
    learning_rate: float
    facts: dict[str, float]
    forward_backward: APIFuture[ForwardBackwardOutput]
    optim_step: APIFuture[OptimStepResponse]
    tokenizer: Any
    reward: Reward

    def metrics(self) -> dict[str, float]:
        """Wait for both operations and return loss, accuracy, margin, rewards, counts and rate."""
        pairs = len(self.datums) // 2
        told = pair_metrics("train", self.forward_backward.result(), pairs)
        optimizer = self.optim_step.result().metrics or {}
        return {
            **told,
            "train/pairs": pairs,
            "train/tokens": self.batch.tokens,
            **self.facts,
            "epoch": self.batch.epoch,
            "learning_rate": self.learning_rate,
            **{f"optim/{name}": value for name, value in optimizer.items()},
        }

    def show(self, page: Transcript) -> None:
        """Show the first pairs of the batch, whole as they were rendered, with what the loss made of each answer."""
        outputs = self.forward_backward.result().loss_fn_outputs
        texts = [
            "".join(token_texts(self.tokenizer, datum.model_input.to_ints())) for datum in self.datums[: 2 * _SHOWN]
        ]
        rewards = [self.reward(datum, output) for datum, output in zip(self.datums, outputs, strict=True)]
        page.heading(f"Pairs of the batch: {len(texts) // 2} of {len(self.datums) // 2}")
        page.table(
            [
                {
                    "chosen": texts[i],
                    "its reward": f"{rewards[i]:.3f}",
                    "rejected": texts[i + 1],
                    "the reward of that": f"{rewards[i + 1]:.3f}",
                }
                for i in range(0, len(texts), 2)
            ]
        )


class PairTrainer(ABC):
    """Learns comparisons, batch after batch; subclasses say by which loss.

    Args:
        config: batch size, epochs and optimizer.
        model: renders the rows.
        rows: what to learn from, without what is held out.
        examples: makes the two examples of a row.

    Attributes:
        batches: the rows as batches by number.
        rates: the plan of the learning rate over all of them.
    """

    def __init__(
        self, config: ComparisonConfig, model: ModelSetup, rows: Sequence[Any], examples: PairExamples
    ) -> None:
        self._tokenizer = model.tokenizer
        self._examples = examples
        self.batches = Batches(
            rows,
            model.renderer,
            model.tokenizer,
            batch_size=rows_per_batch(config.batch_size, len(rows), config.usual_batch_size, "comparisons"),
            seed=config.seed,
            # The function cuts pairs itself: both examples of one alike.
            examples=examples,
        )
        self.rates = LearningRates(config, self.batches.total_steps(config.epochs, config.max_steps))

    def start(self, client: TrainingClient) -> None:
        """Take the client, and what its model can read."""
        self._client = client
        self._examples.context_length = client.get_info().model_data.context_length

    def submit(self, step: int) -> SubmittedPairs:
        """Render batch `step` and hand it to the service."""
        began = time.perf_counter()
        truncated, left_out = self._examples.truncated, self._examples.left_out
        batch = self.batches.get(step)
        datums = self.datums(batch.datums)
        facts = {
            "train/truncated": self._examples.truncated - truncated,
            "train/left_out": self._examples.left_out - left_out,
            "time/data": time.perf_counter() - began,
        }
        return SubmittedPairs(
            batch,
            datums,
            self.rates.at(step),
            facts,
            self.forward_backward(datums),
            self._client.optim_step(self.rates.adam_params(step)),
            self._tokenizer,
            self.reward,
        )

    def datums(self, rendered: list[Datum]) -> list[Datum]:
        """Return what the loss reads of the rendered datums, chosen and rejected in turn."""
        return rendered

    @abstractmethod
    def reward(self, datum: Datum, output: Output) -> float:
        """Return the reward of an answer, for transcripts."""

    @abstractmethod
    def forward_backward(self, datums: list[Datum]) -> APIFuture[ForwardBackwardOutput]:
        """Submit the loss of a batch, with `loss:sum` and what `pair_metrics` reads among its metrics."""


def train_on_comparisons(
    config: ComparisonConfig,
    run: Run,
    model: ModelSetup,
    comparisons: Comparisons,
    trainer: PairTrainer,
    evaluators: Sequence[Evaluator],
) -> TrainResult:
    """Train in a run that is open already; arguments as the trainers' `train` makes them.

    Raises:
        UserError: the run was begun with other comparisons, or a row cannot be used.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same call carries on.
        TinsmithError: the service failed.
    """
    run.hold("data", comparisons.facts())
    facts = {
        "comparisons": f"{len(comparisons.train)} of {comparisons.name}",
        "held out": len(comparisons.test),
        **comparisons.train.remarks(),
        "batch size": trainer.batches.batch_size,
        "renderer": model.renderer.name,
    }
    return run_trainer(trainer, run, trainer.rates, Evaluation(config, run, model, evaluators), facts)
