"""Losses over pairs for a service that does not have them: computed here, by way of `forward_backward_custom`.

The formulas are those of `docs/losses.md`. Logprobs of the reference come from a sampling client, once for each
sequence of a run. The reference that a request names is remembered in this process, for the requests after it: such a
service has no place for it in a state, so a resumed run names it again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinsmith.client.sampling.opened_sampler import SampleSpec
from tinsmith.client.sampling.sampling_client import SamplingClient
from tinsmith.client.training.custom_loss import CustomLoss
from tinsmith.client.training.ordered_calls import OrderedCalls
from tinsmith.client.training.training_ops import model_name
from tinsmith.types.checks.pair_checks import check_pairs
from tinsmith.types.datum import Datum
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.facts.loss_table import BASE_REFERENCE, LOSSES, REFERENCE_KEY, resolve_config
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.outputs import ForwardBackwardOutput
from tinsmith.types.params import SamplingParams
from tinsmith.types.tensor import TensorData

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
_Config = Mapping[str, float | None]

# Requests for reference logprobs on their way at once.
_PARALLEL_PROMPTS = 64


class PreferenceFallback:
    """Computes reference logprobs and losses of one model's pairs.

    Args:
        ordered: of the model.
    """

    def __init__(self, ordered: OrderedCalls) -> None:
        self._session = ordered.session
        self._created = ordered.created
        self._samplers: dict[str, SamplingClient] = {}
        self._kept = BASE_REFERENCE
        self._known: OrderedDict[tuple[str, bytes], Array] = OrderedDict()
        self._bytes = 0
        self._limit = self._session.connection.settings.reference_cache_mb * 2**20
        self._posts = asyncio.Semaphore(_PARALLEL_PROMPTS)

    async def references(
        self, data: Sequence[Datum], loss_fn: str, config: Mapping[str, float | str], *, keep: bool
    ) -> list[Array] | None:
        """Return the reference logprobs of datums in turn, float32 [N] each; None where the loss reads none.

        Args:
            data: chosen and rejected in turn.
            loss_fn: the loss.
            config: its parameters.
            keep: whether later requests go on with the reference that this one names.

        Raises:
            UserError: a pair is not sound, or the reference cannot be sampled from.
            TinsmithError: torch is not installed.
        """
        _check_torch(loss_fn)
        resolve_config(loss_fn, config)
        _check_inputs(data, loss_fn)
        check_pairs(data)
        if not LOSSES[loss_fn].referenced:
            return None
        reference = str(config.get(REFERENCE_KEY, self._kept))
        found = await asyncio.gather(*(self._logprobs(i, datum, reference) for i, datum in enumerate(data)))
        # As the service has it: a request that fails, or only evaluates, changes nothing.
        if keep:
            self._kept = reference
        return found

    async def _logprobs(self, index: int, datum: Datum, reference: str) -> Array:
        given = datum.loss_fn_inputs.get("ref_logprobs")
        if given is not None:
            return given.to_numpy()
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        tokens = [*datum.model_input.to_ints(), int(targets[-1])]
        if tokens[1:] != targets.tolist():
            expected = "the tokens of model_input, moved by one: this service scores whole sequences only"
            raise invalid(f"data[{index}].loss_fn_inputs['target_tokens']", "other tokens", expected)
        key = (reference, np.asarray(tokens, np.int64).tobytes())
        if key not in self._known:
            spec = SampleSpec(prompt=tokens, params=SamplingParams(max_tokens=1), prompt_logprobs=True)
            async with self._posts:
                answer = await self._sampler(reference).sample_spec(spec)
            if answer.prompt_logprobs_np is None:
                raise TinsmithError("dpo: the service gave no prompt logprobs of the reference")
            self._keep(key, answer.prompt_logprobs_np[1:])
        else:
            self._known.move_to_end(key)
        return self._known[key]

    def _keep(self, key: tuple[str, bytes], logprobs: Array) -> None:
        self._known[key] = logprobs
        self._bytes += logprobs.nbytes + len(key[1])
        # Never the newest, which is about to be used.
        while self._bytes > self._limit and len(self._known) > 1:
            (_, tokens), dropped = self._known.popitem(last=False)
            self._bytes -= dropped.nbytes + len(tokens)

    def _sampler(self, reference: str) -> SamplingClient:
        sampler = self._samplers.get(reference)
        if sampler is None or sampler.failed:
            if reference == BASE_REFERENCE:
                sampler = SamplingClient.create(self._session, base_model=model_name(self._created.peek()))
            else:
                field = f"loss_fn_config[{REFERENCE_KEY!r}]"
                if CheckpointPath.parse(reference, field).kind != "sampler_weights":
                    raise invalid(field, reference, "weights to sample from: this service has no loss over pairs")
                sampler = SamplingClient.create(self._session, model_path=reference)
            self._samplers[reference] = sampler
        return sampler


def _check_torch(loss_fn: str) -> None:
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise TinsmithError(
            f"loss_fn {loss_fn!r}: this service has no such loss, so torch computes it here: install torch"
        ) from error


def _check_inputs(data: Sequence[Datum], loss_fn: str) -> None:
    for index, datum in enumerate(data):
        for key in LOSSES[loss_fn].required:
            if key not in datum.loss_fn_inputs:
                raise invalid(f"data[{index}].loss_fn_inputs[{key!r}]", None, f"an array for loss_fn {loss_fn!r}")


def pair_loss(loss_fn: str, config: Mapping[str, float | str], references: Sequence[Array] | None) -> CustomLoss:
    """Return a loss over pairs as `forward_backward_custom` takes one, with the service's metrics."""
    numbers = resolve_config(loss_fn, config)

    def loss(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        import torch

        weights = [datum.loss_fn_inputs["weights"].to_torch().double() for datum in data]
        means = torch.stack([_dot(w, lp.double()) / w.sum() for w, lp in zip(weights, logprobs, strict=True)])
        beta = _number(numbers, f"{loss_fn}_beta")
        if references is None:
            rewards = beta * means
        else:
            refs = [TensorData.from_numpy(ref).to_torch().double() for ref in references]
            sums = [_dot(w, lp.double() - ref) for w, lp, ref in zip(weights, logprobs, refs, strict=True)]
            ratios = torch.stack([s / w.sum() if loss_fn == "ipo" else s for s, w in zip(sums, weights, strict=True)])
            rewards = beta * ratios
        margin = rewards[0::2] - rewards[1::2]
        metrics = {
            "accuracy:mean": (margin > 0).double().mean(),
            "margin:mean": margin.detach().mean(),
            "chosen_reward:mean": rewards[0::2].detach().mean(),
            "rejected_reward:mean": rewards[1::2].detach().mean(),
        }
        total = _of_margin(loss_fn, numbers, margin, means[0::2]).sum()
        return total, {name: float(value) for name, value in metrics.items()}

    return loss


def _of_margin(loss_fn: str, config: _Config, margin: torch.Tensor, chosen_means: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import logsigmoid

    if loss_fn == "simpo":
        return -logsigmoid(margin - _number(config, "simpo_gamma"))
    if loss_fn == "ipo":
        beta = _number(config, "ipo_beta")
        return (margin / beta - 1 / (2 * beta)).square()
    smoothing = _number(config, "label_smoothing")
    preference = -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
    return preference - _number(config, "nll_coeff") * chosen_means


def _dot(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    # Replaced, not only multiplied: a logprob of the prompt may be infinite.
    return (weights * values.where(weights != 0, 0.0)).sum()


def _number(config: _Config, key: str) -> float:
    value = config[key]
    assert value is not None
    return value


def with_references(output: ForwardBackwardOutput, references: Sequence[Array] | None) -> ForwardBackwardOutput:
    """Return outputs and metrics as a service that has the loss would give them."""
    metrics = {name: value for name, value in output.metrics.items() if name != "surrogate_loss:sum"}
    outputs = output.loss_fn_outputs
    if references is not None:
        found = [TensorData.from_numpy(np.asarray(ref, np.float32)) for ref in references]
        outputs = [{**one, "ref_logprobs": ref} for one, ref in zip(outputs, found, strict=True)]
    return ForwardBackwardOutput(output.loss_fn_output_type, outputs, metrics)


def evaluated(output: ForwardBackwardOutput, data: list[Datum], loss: CustomLoss) -> ForwardBackwardOutput:
    """Return the outputs of a forward with the loss and the metrics computed here."""
    value, metrics = loss(data, [one["logprobs"].to_torch() for one in output.loss_fn_outputs])
    merged = output.metrics | metrics | {"loss:sum": float(value)}
    return ForwardBackwardOutput(output.loss_fn_output_type, output.loss_fn_outputs, merged)
