"""A loss that the caller computes: logprobs come here, gradients go back as weights of a cross-entropy.

With C the caller's loss and lp the logprobs, cross-entropy L = −Σ weights·lp has the gradient of C where
weights = −dC/dlp (chain rule; the service differentiates lp with respect to the adapter).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinsmith.types.datum import Datum
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.outputs import ForwardBackwardOutput
from tinsmith.types.tensor import TensorData

if TYPE_CHECKING:
    import torch

    CustomLoss = Callable[[list[Datum], list[torch.Tensor]], tuple[torch.Tensor, dict[str, float]]]
else:
    CustomLoss = Callable


@dataclass(frozen=True)
class Surrogate:
    """What the caller's loss came to.

    Attributes:
        data: the batch with weights = −dC/dlogprobs.
        loss: C.
        metrics: the caller's own.
    """

    data: list[Datum]
    loss: float
    metrics: dict[str, float]


def check_torch() -> None:
    """Check that torch is there, which differentiates the caller's loss.

    Raises:
        TinsmithError: it is not.
    """
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise TinsmithError("forward_backward_custom differentiates your loss with torch: install torch") from error


def forward_data(data: Sequence[Datum]) -> list[Datum]:
    """Return the batch as the forward needs it: target tokens, and weights (zeros where there are none).

    Raises:
        UserError: a datum has no target_tokens.
    """
    return [_forward_datum(index, datum) for index, datum in enumerate(data)]


def _forward_datum(index: int, datum: Datum) -> Datum:
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None:
        raise invalid(f"data[{index}].loss_fn_inputs['target_tokens']", None, "the tokens whose logprobs you want")
    # The forward's loss is thrown away, but a service may refuse a batch without weights.
    weights = datum.loss_fn_inputs.get("weights")
    if weights is None:
        weights = TensorData.from_numpy(np.zeros(targets.shape, dtype=np.float32))
    return Datum(datum.model_input, {"target_tokens": targets, "weights": weights})


def differentiate(data: list[Datum], forward: ForwardBackwardOutput, loss_fn: CustomLoss) -> Surrogate:
    """Compute the caller's loss on the logprobs of a forward, and its gradient.

    Args:
        data: the caller's batch, with everything it holds.
        forward: holds `logprobs` per datum, float32, of the shape of target_tokens.
        loss_fn: from (data, logprobs per datum) to (scalar, metrics).

    Raises:
        UserError: the loss does not depend on the logprobs of a datum.
    """
    # One leaf per datum, (N) or (N, K): the shape of its target_tokens, so that its gradient is the new weights' shape.
    logprobs = [output["logprobs"].to_torch().requires_grad_(True) for output in forward.loss_fn_outputs]
    loss, metrics = loss_fn(data, logprobs)
    # The caller's graph ends at these leaves; what lies behind them, the model, is the service's to differentiate.
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    linear: list[Datum] = []
    for index, (datum, leaf) in enumerate(zip(data, logprobs, strict=True)):
        # A datum that the loss forgot would be trained with weight 0, which looks like learning nothing from it.
        if leaf.grad is None:
            raise invalid(f"logprobs[{index}].grad", None, "a loss that depends on the logprobs of every datum")
        inputs = {"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": -leaf.grad}
        linear.append(Datum(datum.model_input, inputs))
    return Surrogate(linear, float(loss.detach().sum().item()), dict(metrics))


def with_custom_metrics(backward: ForwardBackwardOutput, surrogate: Surrogate) -> ForwardBackwardOutput:
    """Return the backward's output with the caller's loss and metrics in front."""
    metrics = dict(backward.metrics)
    # The service's loss is that of the linear stand-in: of the right gradient, and of no meaning as a number.
    if "loss:sum" in metrics:
        metrics["surrogate_loss:sum"] = metrics.pop("loss:sum")
    metrics |= surrogate.metrics | {"loss:sum": surrogate.loss}
    return ForwardBackwardOutput(backward.loss_fn_output_type, backward.loss_fn_outputs, metrics)
