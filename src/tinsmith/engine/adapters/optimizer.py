"""AdamW on an adapter's flat vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from tinsmith.engine.adapters.trained_adapters import Adapter
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams

# Guards the quotient as `torch.nn.utils.clip_grad_norm_` does, so that clipped runs can be compared with it.
_CLIP_EPS = 1e-6
# Elements of a vector whose squares are summed by one thread.
_BLOCK = 1024
# Far above the root of the smallest number of float32.
_LEAST_NORM = 1e-15


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
        UserError: a gradient is not finite, or the step needs numbers beyond the weights' dtype; weights and moments
            stay.
    """
    norm = _norm(adapter.grad)
    coefficient = 1.0
    # Written so that NaN is caught too. The norm sees every element, so one check stands for all.
    if not norm < float("inf"):
        raise _refused(adapter, f"gradients with norm {norm}, expected finite numbers")
    if params.grad_clip_norm > 0:
        coefficient = min(1.0, params.grad_clip_norm / (norm + _CLIP_EPS))
    _check_range(adapter, params, norm * coefficient)
    # What takes memory comes before the first change, too.
    taken = torch.full((), adapter.step, dtype=torch.float32, device=adapter.master.device)
    # From here on nothing is refused: a step is taken whole or not at all.
    if coefficient < 1:
        adapter.grad.mul_(coefficient)
    # All vectors in one pass over memory, where single operations make a dozen. It counts the step itself.
    adamw(
        [adapter.master],
        [adapter.grad],
        [adapter.exp_avg],
        [adapter.exp_avg_sq],
        [],
        [taken],
        fused=True,
        amsgrad=False,
        maximize=False,
        lr=params.learning_rate,
        beta1=params.beta1,
        beta2=params.beta2,
        weight_decay=params.weight_decay,
        # The least one changes nothing but 0 / 0 where eps is 0 and a weight never had a gradient.
        eps=max(params.eps, torch.finfo(adapter.master.dtype).tiny),
    )
    adapter.step += 1
    adapter.publish()
    adapter.clear_gradients()
    return {
        "grad_norm": norm,
        "clip_coefficient": coefficient,
        "learning_rate": params.learning_rate,
        "adam_step": float(adapter.step),
    }


def _norm(vector: Tensor) -> float:
    """The length of a vector, with the same bits whatever the number of threads."""
    norm = _norm_by_blocks(vector, vector.dtype)
    # What a square of float32 can't hold, too large or too small, float64 can.
    return norm if _LEAST_NORM < norm < float("inf") else _norm_by_blocks(vector, torch.float64)


def _norm_by_blocks(vector: Tensor, dtype: torch.dtype) -> float:
    # Blocks are summed in the dtype, their sums in float64: one sum of millions would lose the small ones to rounding,
    # and would be cut over threads, which follow the load.
    whole = len(vector) // _BLOCK * _BLOCK
    blocks = torch.linalg.vector_norm(vector[:whole].view(-1, _BLOCK), dim=1, dtype=dtype)
    rest = torch.linalg.vector_norm(vector[whole:], dtype=dtype)
    return float(torch.linalg.vector_norm(torch.cat([blocks, rest[None]]), dtype=torch.float64))


def _check_range(adapter: Adapter, params: AdamParams, norm: float) -> None:
    """Refuse what would be infinite: squares of gradients, which a moment would keep for good, and factors."""
    # Moments start at 0 and are too small at first; the correction tends to 1.
    rate = params.learning_rate / (1 - params.beta1 ** (adapter.step + 1))
    factor = max(rate, params.learning_rate * params.weight_decay)
    largest = torch.finfo(adapter.master.dtype).max
    # The largest element is at most the norm, and less than it where there are several.
    if norm > largest**0.5:
        raise _refused(adapter, f"gradients with norm {norm:g}, expected at most {largest**0.5:g} (or grad_clip_norm)")
    if factor > largest:
        found = f"learning_rate {params.learning_rate:g} with weight_decay {params.weight_decay:g}"
        raise _refused(adapter, f"{found}, expected a step of at most {largest:g} times the weights or moments")


def _refused(adapter: Adapter, why: str) -> UserError:
    adapter.clear_gradients()
    return UserError(f"optim_step: got {why}; the gradients were cleared, the weights stay")
