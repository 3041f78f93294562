"""What an evaluator sees, and how several are run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinsmith import SamplingClient, ServiceClient, TrainingClient
from tinsmith.cookbook.completers import sample_answers
from tinsmith.cookbook.renderers import Renderer
from tinsmith.types.errors import TinsmithError, invalid

if TYPE_CHECKING:
    from tinsmith.cookbook.runs.transcripts.transcript import Transcript

logger = logging.getLogger("tinsmith.cookbook")

# Names of a metrics row that belong to the training loop, and what others of its begin with.
_RESERVED = ("step", "epoch", "learning_rate")
_PREFIXES = ("train/", "optim/", "time/")


@dataclass
class EvalContext:
    """One evaluation: the weights as they are now, and all that is needed to ask them something.

    Everything drawn at random comes from `seed`, so that an evaluation that is done again gives the same numbers.

    Attributes:
        service_client: makes further clients, of a judge for example.
        model_name: of the base model.
        renderer, tokenizer: of that model.
        step: optimizer steps done.
        seed: of the run; what is drawn at an evaluation follows from it.
        training_client: whose weights; None evaluates saved weights or the base model.
        snapshot: of its weights, where training goes on beside the evaluation; None takes one when it is asked for.
        model_path: saved weights, where there is no training client; None is the base model.
        transcript: page for what should be read; None where none is written.
    """

    service_client: ServiceClient
    model_name: str
    renderer: Renderer
    tokenizer: Any
    step: int = 0
    seed: int = 0
    training_client: TrainingClient | None = None
    snapshot: SamplingClient | None = None
    model_path: str | None = None
    transcript: Transcript | None = None

    @cached_property
    # Cached: the weights are the same for all evaluators of one evaluation, and a snapshot costs a save.
    def sampling_client(self) -> SamplingClient:
        """A client of the weights as they are now: one snapshot for all evaluators."""
        if self.snapshot is not None:
            return self.snapshot
        if self.training_client is not None:
            return self.training_client.save_weights_and_get_sampling_client()
        if self.model_path is not None:
            return self.service_client.create_sampling_client(model_path=self.model_path)
        return self.base_client

    @cached_property
    def base_client(self) -> SamplingClient:
        """A client of the base model, without any adapter."""
        return self.service_client.create_sampling_client(base_model=self.model_name)

    @cached_property
    def context_length(self) -> int | None:
        """Tokens that the model reads; None where the service does not say."""
        if self.training_client is not None:
            return self.training_client.get_info().model_data.context_length
        # Without training there is nobody to ask `get_info`; a service may list a model without its length, or not at
        # all.
        return {model.model_name: model.max_context_length for model in self.service_client.list_models()}.get(
            self.model_name
        )

    def answers(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    ) -> list[str]:
        """Return one sampled answer's text per conversation, in order.

        Args:
            conversations: each ends with what is to be answered.
            max_tokens: longest answer.
            temperature: 0 is greedy.
            seed: of the sampling; None takes the run's.
            tools: of each conversation, as its row has them; None where none has any.
        """
        return sample_answers(
            self.sampling_client,
            self.renderer,
            conversations,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=self.seed if seed is None else seed,
            tools=tools,
        )


Evaluator = Callable[[EvalContext], Mapping[str, float]]


class EvaluationError(TinsmithError):
    """An evaluator raised; the message names it, and its own error is the cause."""


def run_evaluators(evaluators: Sequence[Evaluator], context: EvalContext) -> dict[str, float]:
    """Run evaluators one after the other and return all their numbers.

    Raises:
        EvaluationError: an evaluator raised, whatever it was; its traceback is logged.
        UserError: a name is given twice or belongs to the training loop, or a value is no number.
    """
    found: dict[str, float] = {}
    for evaluator in evaluators:
        name = evaluator_name(evaluator)
        try:
            metrics = evaluator(context)
        # Whatever it is: a judge that does not answer must not cost the steps that were trained before.
        except Exception as error:
            logger.error("evaluator %s raised", name, exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            raise EvaluationError(f"evaluator {name}, after {context.step} steps: {reason}") from error
        found |= _checked(name, metrics, found)
    return found


def evaluator_name(evaluator: Evaluator) -> str:
    """Return what an evaluator is called: its `name`, a function's name, or that of its class."""
    name = getattr(evaluator, "name", None) or getattr(evaluator, "__name__", None)
    return str(name or type(evaluator).__name__)


def _checked(evaluator: str, metrics: Any, before: Mapping[str, float]) -> dict[str, float]:
    field = f"evaluator {evaluator}"
    if not isinstance(metrics, Mapping):
        raise invalid(field, metrics, 'names and numbers, as in {"eval/mine": 0.5}')
    found: dict[str, float] = {}
    for key, value in metrics.items():
        # The evaluation shares a row with the batch after it: a name of the loop's own would be overwritten in silence.
        if not isinstance(key, str) or key in _RESERVED or key.startswith(_PREFIXES):
            own = ", ".join([*_RESERVED, *(f"{prefix}..." for prefix in _PREFIXES)])
            raise invalid(f"{field}: name", key, f"a text that is none of the training loop's own: {own}")
        if key in before:
            raise invalid(f"{field}: name", key, "one that no other evaluator gives")
        found[key] = _number(f"{field}: {key}", value)
    return found


def _number(field: str, value: Any) -> float:
    try:
        if isinstance(value, str):
            raise TypeError  # float() would read it
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise invalid(field, value, "a number") from None
