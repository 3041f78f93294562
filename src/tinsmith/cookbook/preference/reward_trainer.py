"""The reward model's trainer: Bradley and Terry's model of paired comparisons on log-odds that an adapter can serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import chz
import numpy as np

from tinsmith import APIFuture, Datum, ForwardBackwardOutput
from tinsmith.cookbook.batches.datums import shift
from tinsmith.cookbook.eval import EvalContext, Evaluator
from tinsmith.cookbook.preference.baselines import length_accuracy
from tinsmith.cookbook.preference.config import FREE, ComparisonConfig
from tinsmith.cookbook.preference.pair_examples import PairExamples
from tinsmith.cookbook.preference.pair_trainer import Output, PairTrainer, train_on_comparisons
from tinsmith.cookbook.preference.reward_tokens import RewardTokens, reward_tokens
from tinsmith.cookbook.preference.sources import Comparisons, load_comparisons
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.training import ModelSetup, TrainResult, set_up_model
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid
from tinsmith.types.tensor import TensorData

if TYPE_CHECKING:
    import torch


@chz.chz
class RewardModelConfig(ComparisonConfig):
    """What the training of a reward model takes."""

    center_coef: float = chz.field(
        default=0.01, validator=at_least(0), doc="weight of (r_chosen + r_rejected)^2, which keeps scores around 0"
    )


def verdict_datum(rendered: Datum, tokens: RewardTokens) -> Datum:
    """Return a datum whose last position asks for the logprobs of both tokens.

    Args:
        rendered: its N - 1 first targets are the conversation's, its last one is the verdict.
        tokens: the two.

    Returns:
        A datum of N positions: `target_tokens` int64 and `weights` float32 of shape (N, 2); only the last one counts.
    """
    # [N, 2]: all but the last row is the conversation twice, which no loss looks at.
    targets = np.repeat(rendered.loss_fn_inputs["target_tokens"].to_numpy()[:, None], 2, axis=1)
    targets[-1] = tokens
    weights = np.zeros(targets.shape, dtype=np.float32)
    return Datum(
        rendered.model_input,
        {"target_tokens": TensorData.from_numpy(targets), "weights": TensorData.from_numpy(weights)},
    )


def bradley_terry(logprobs: Sequence[torch.Tensor], center_coef: float = 0.0) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of pairs, and what is told of them.

    The loss is the sum of -log sigmoid(r_a - r_b) + c (r_a + r_b)^2 over pairs, with r_a the chosen answer's score and
    r_b the other one's: Bradley and Terry 1952 ("Rank analysis of incomplete block designs"), as Ouyang et al. 2022
    (arXiv:2203.02155, equation 1) learn it; the second term is that of Eisenstein et al. 2023 (arXiv:2312.09244,
    section 2). A score is log p(good) - log p(bad).

    Args:
        logprobs: of 2 B datums, chosen and rejected in turn, float32 (N, 2) each.
        center_coef: c.
    """
    import torch

    scores = torch.stack([values[-1, 0] - values[-1, 1] for values in logprobs])
    chosen, rejected = scores[0::2], scores[1::2]
    margin = chosen - rejected
    loss = (-torch.nn.functional.logsigmoid(margin) + center_coef * (chosen + rejected).square()).sum()
    told = {
        "accuracy": (margin > 0).float(),
        "margin": margin,
        "chosen_reward": chosen,
        "rejected_reward": rejected,
    }
    return loss, {f"{name}:mean": float(values.detach().mean()) for name, values in told.items()}


class RewardModelTrainer(PairTrainer):
    """Learns to give the chosen answer of a pair the higher score; arguments as `PairTrainer`."""

    def __init__(self, config: RewardModelConfig, model: ModelSetup, rows: Sequence[Row]) -> None:
        self._tokens = reward_tokens(model.tokenizer)
        self._center_coef = config.center_coef
        examples = PairExamples(model.renderer, config.max_length, self._tokens.good)
        super().__init__(config, model, rows, examples)

    def datums(self, rendered: list[Datum]) -> list[Datum]:
        """Return the datums that ask for the two logprobs."""
        return [verdict_datum(datum, self._tokens) for datum in rendered]

    def reward(self, datum: Datum, output: Output) -> float:
        """Return the score."""
        good, bad = output["logprobs"].to_numpy()[-1]
        return float(good - bad)

    def forward_backward(self, datums: list[Datum]) -> APIFuture[ForwardBackwardOutput]:
        """Submit the loss, which is computed here."""
        return self._client.forward_backward_custom(
            datums, lambda _, logprobs: bradley_terry(logprobs, self._center_coef)
        )


class RewardAccuracy:
    """How often the weights prefer the chosen one of held-out comparisons.

    Gives `NAME/accuracy`, `NAME/margin`, `NAME/loss`, and `NAME/length`, the accuracy of one who always prefers the
    longer answer (a tie counts one half). A random choice has 50 %.

    Args:
        rows: held-out comparisons.
        name: what the metrics begin with.
        max_length: as in training.
    """

    def __init__(self, rows: Sequence[Row], name: str = "test", *, max_length: int | None = None) -> None:
        self.name = name
        self._rows = list(rows)
        self._max_length = max_length

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Measure the weights as they are.

        Raises:
            UserError: no pair fits into the context.
        """

        assert context.training_client is not None
        tokens = reward_tokens(context.tokenizer)
        examples = PairExamples(context.renderer, self._max_length, tokens.good)
        examples.context_length = context.context_length
        datums = [verdict_datum(shift(example), tokens) for row in self._rows for example in examples(row)]
        if not datums:
            raise invalid(f"{self.name} comparisons", "none that fits", "answers within max_length and the context")
        outputs = context.training_client.forward(datums, "cross_entropy").result().loss_fn_outputs
        loss, told = bradley_terry([output["logprobs"].to_torch() for output in outputs])
        return {
            f"{self.name}/loss": float(loss) / (len(datums) // 2),
            **{f"{self.name}/{name.removesuffix(':mean')}": value for name, value in told.items()},
            f"{self.name}/length": length_accuracy(self._rows),
        }


def train_reward_model(
    config: RewardModelConfig,
    recipe: str,
    *,
    comparisons: Comparisons | None = None,
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Train a reward model; the same call on the same log path carries on where it stopped.

    The weights it saves are a plain adapter: `RewardModel.open(service, result.sampler_path)` serves them.

    Args:
        config: data, model, and where the run lies.
        recipe: its name, which the run and its folder are called after.
        comparisons: what to learn from and what to ask; None takes what `config` names.
        evaluators: measured beside the accuracy on held-out comparisons.

    Returns:
        What the run came to; of a run that was finished already, too.

    Raises:
        UserError: a setting or a row cannot be used, or another run has the log path.
        EvaluationError: an evaluator raised; what was learned before is saved, and the same call carries on.
        TinsmithError: the service failed.
    """
    found = comparisons or load_comparisons(
        config.data, config.test, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows
    )
    with Run(config, recipe, free=FREE) as run:
        model = set_up_model(run, config)
        trainer = RewardModelTrainer(config, model, found.train)
        asked = RewardAccuracy(found.test, max_length=config.max_length)
        return train_on_comparisons(config, run, model, found, trainer, [asked, *evaluators])
