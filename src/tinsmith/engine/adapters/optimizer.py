"""AdamW on an adapter's flat vectors."""

from __future__ import annotations

import torch

from tinsmith.engine.adapters.trained_adapters import Adapter
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams

# Guards the quotient as `torch.nn.utils.clip_grad_norm_` does, so that clipped runs can be compared with it.
_CLIP_EPS = 1e-6


@torch.no_grad()
def adamw_step(adapter: Adapter, params: AdamParams) -> dict[str, float]:
    """Take one step and publish the new weights; the gradients are cleared in every case.

    Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2 with a schedule multiplier of 1, weight decay multiplied
    by the learning rate; moments are bias-corrected (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

    Args:
        adapter: with the gradients since its last step.
        params: of this step.

    Returns:
        grad_norm (before clipping), clip_coefficient, learning_rate, adam_step. No `step`: training loops merge these
        into their own rows, where that is the number of the batch.

    Raises:
        UserError: a gradient is not finite; the weights and moments stay.
    """
    # In float64: squares of many float32 gradients would lose the small ones to rounding, or overflow.
    norm = float(torch.linalg.vector_norm(adapter.grad, dtype=torch.float64))
    # Written so that NaN is caught too. The norm sees every element, so one check stands for all.
    if not norm < float("inf"):
        adapter.clear_gradients()
        raise UserError(
            f"optim_step: got gradients with norm {norm}, expected finite numbers; the gradients were cleared, the "
            "weights stay"
        )
    coefficient = 1.0
    if params.grad_clip_norm > 0:
        coefficient = min(1.0, params.grad_clip_norm / (norm + _CLIP_EPS))
    # The one thing that takes memory comes before the first change: a step is taken whole or not at all.
    scale = torch.empty_like(adapter.exp_avg_sq)
    adapter.step += 1
    grad = adapter.grad.mul_(coefficient) if coefficient < 1 else adapter.grad
    adapter.exp_avg.lerp_(grad, 1 - params.beta1)
    adapter.exp_avg_sq.mul_(params.beta2).addcmul_(grad, grad, value=1 - params.beta2)
    # Moments start at 0 and are too small at first; both corrections tend to 1.
    correction1 = 1 - params.beta1**adapter.step
    correction2 = 1 - params.beta2**adapter.step
    # The floor changes nothing but 0 / 0 where eps is 0 and a weight never had a gradient.
    floor = torch.finfo(grad.dtype).tiny
    torch.sqrt(adapter.exp_avg_sq, out=scale).div_(correction2**0.5).add_(params.eps).clamp_min_(floor)
    # Decay of the weights as they were before the step, as in torch.optim.AdamW.
    adapter.master.mul_(1 - params.learning_rate * params.weight_decay)
    adapter.master.addcdiv_(adapter.exp_avg, scale, value=-params.learning_rate / correction1)
    adapter.publish()
    adapter.clear_gradients()
    return {
        "grad_norm": norm,
        "clip_coefficient": coefficient,
        "learning_rate": params.learning_rate,
        "adam_step": float(adapter.step),
    }
