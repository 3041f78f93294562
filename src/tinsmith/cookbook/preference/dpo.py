"""Direct preference optimization: the policy learns comparisons itself, without a reward model between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import chz

from tinsmith import APIFuture, Datum, ForwardBackwardOutput
from tinsmith.cookbook.batches.datums import shift
from tinsmith.cookbook.eval import EvalContext, Evaluator
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.preference.baselines import length_accuracy
from tinsmith.cookbook.preference.config import FREE, ComparisonConfig
from tinsmith.cookbook.preference.pair_examples import PairExamples
from tinsmith.cookbook.preference.pair_trainer import Output, PairTrainer, pair_metrics, train_on_comparisons
from tinsmith.cookbook.preference.sources import Comparisons, load_comparisons
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.training import ModelSetup, TrainResult, set_up_model
from tinsmith.cookbook.utils import positive
from tinsmith.types.errors import invalid
from tinsmith.types.facts.loss_table import LOSSES, resolve_config
from tinsmith.types.names.paths import CheckpointPath

BASE = "base"
# What papers and courses use.
_USUAL_BETA = (0.1, 0.5)


def _reference(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, str) and value != BASE:
        CheckpointPath.parse(value, field.removeprefix("X_"))


@chz.chz
class DPOConfig(ComparisonConfig):
    """What direct preference optimization takes."""

    loss_fn: Literal["dpo", "ipo", "simpo"] = chz.field(default="dpo", doc="what is minimised")
    beta: float | None = chz.field(
        default=None,
        validator=positive,
        doc="how far the policy is held to the reference: the larger, the nearer; usual are 0.1 to 0.5; None: the "
        "loss's own (dpo and ipo 0.1, simpo 2)",
    )
    loss_fn_config: dict[str, float] | None = chz.field(
        default=None, doc='further settings of the loss: loss_fn_config={"label_smoothing":0.1}'
    )
    reference: str | None = chz.field(
        default=None,
        validator=_reference,
        doc="base, or tinker:// weights; None: load_checkpoint_path where one is given, else base",
    )

    @chz.validate
    def _loss(self) -> None:
        # Tried at the door: the service would say so at the first step.
        resolve_config(self.loss_fn, self.loss_config(with_reference=False))
        if self.reference is not None and not LOSSES[self.loss_fn].referenced:
            raise invalid("reference", self.reference, f"None: loss_fn {self.loss_fn!r} has no reference")

    def loss_config(self, *, with_reference: bool = True) -> dict[str, float | str]:
        """Return the settings of the loss as the service takes them."""
        found: dict[str, float | str] = dict(self.loss_fn_config or {})
        name = f"{self.loss_fn}_beta"
        if self.beta is not None:
            if name in found:
                raise invalid("beta", self.beta, f"None, as loss_fn_config has {name}")
            found[name] = self.beta
        if with_reference and LOSSES[self.loss_fn].referenced:
            # Named at every step: what a request names is what the service computes with, whatever was named before.
            found["reference"] = self.reference or self.load_checkpoint_path or BASE
        return found


class DPOTrainer(PairTrainer):
    """Learns comparisons by a loss over pairs that the service computes; arguments as `PairTrainer`."""

    def __init__(self, config: DPOConfig, model: ModelSetup, rows: Sequence[Row]) -> None:
        self._loss_fn = config.loss_fn
        self._loss_config = config.loss_config()
        beta = self._loss_config.get("dpo_beta")
        low, high = _USUAL_BETA
        if isinstance(beta, float | int) and not low <= beta <= high:
            warn_once(
                "dpo beta",
                f"beta: {beta:g} is outside the usual {low:g} to {high:g}; "
                + ("the policy may leave the reference far behind" if beta < low else "the policy will hardly move"),
            )
        super().__init__(config, model, rows, PairExamples(model.renderer, config.max_length))

    def reward(self, datum: Datum, output: Output) -> float:
        """Return the log ratio of policy and reference over the answer, without beta; its logprob without one."""
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        logprobs = output["logprobs"].to_numpy()
        if "ref_logprobs" in output:
            logprobs = logprobs - output["ref_logprobs"].to_numpy()
        return float(logprobs[weights != 0].sum())

    def forward_backward(self, datums: list[Datum]) -> APIFuture[ForwardBackwardOutput]:
        """Submit the loss of a batch."""
        return self._client.forward_backward(datums, self._loss_fn, self._loss_config)


class PairLoss:
    """The loss, accuracy, margin and rewards of held-out comparisons, as `NAME/...`.

    `NAME/length` is the accuracy of one who always prefers the longer answer.

    Args:
        rows: held-out comparisons.
        config: names loss and reference.
        name: what the metrics begin with.
    """

    def __init__(self, rows: Sequence[Row], config: DPOConfig, name: str = "test") -> None:
        self.name = name
        self._rows = list(rows)
        self._config = config

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Measure the weights as they are.

        Raises:
            UserError: no pair fits into the context.
        """
        assert context.training_client is not None
        examples = PairExamples(context.renderer, self._config.max_length)
        examples.context_length = context.context_length
        datums = [shift(example) for row in self._rows for example in examples(row)]
        if not datums:
            raise invalid(f"{self.name} comparisons", "none that fits", "answers within max_length and the context")
        asked = context.training_client.forward(datums, self._config.loss_fn, self._config.loss_config())
        found = pair_metrics(self.name, asked.result(), len(datums) // 2)
        return {**found, f"{self.name}/length": length_accuracy(self._rows)}


def train_dpo(
    config: DPOConfig,
    recipe: str,
    *,
    comparisons: Comparisons | None = None,
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Train a policy on comparisons; the same call on the same log path carries on where it stopped.

    The reference is that of the run: it is recorded in the run's folder and in every state, and a run that is taken up
    again goes on with it, not with the weights that it is taken up from.

    Args:
        config: data, model, loss, and where the run lies.
        recipe: its name, which the run and its folder are called after.
        comparisons: what to learn from and what to ask; None takes what `config` names.
        evaluators: measured beside the loss on held-out comparisons.

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
        return train_dpo_in(run, set_up_model(run, config), config, found, evaluators)


def train_dpo_in(
    run: Run, model: ModelSetup, config: DPOConfig, comparisons: Comparisons, evaluators: Sequence[Evaluator] = ()
) -> TrainResult:
    """Do the same in a run that is open already: for recipes whose evaluators need its service."""
    trainer = DPOTrainer(config, model, comparisons.train)
    run.hold("reference", {"reference": config.loss_config().get("reference")})
    asked = PairLoss(comparisons.test, config)
    return train_on_comparisons(config, run, model, comparisons, trainer, [asked, *evaluators])
