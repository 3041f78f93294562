"""Losses as pure functions of logprobs: per-position values whose sum is the loss.

lp is the target's logprob under the current policy, q under the policy that sampled it, A the advantage,
r = exp(lp - q). A position whose weight (cross entropy) or advantage times weight (the others) is zero contributes
exactly 0 to value and gradient, whatever its logprobs are: it is left out before anything is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Config = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss reads beside the logprobs; every tensor has their shape [P].

    Attributes:
        weights: factor on each position's loss; ones where the datum brings none.
        logprobs: q, of the sampling policy; zeros for cross entropy.
        advantages: A; zeros for cross entropy.
    """

    weights: Tensor
    logprobs: Tensor
    advantages: Tensor


def cross_entropy(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-weight * lp."""
    active = inputs.weights != 0
    return -inputs.weights * torch.where(active, logprobs, 0.0)


def importance_sampling(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-r * A; with clip thresholds -clamp(r, low, high) * A, which has no gradient outside the bounds.

    The surrogate without clipping of Schulman et al. 2017 (arXiv:1707.06347, equation 6), per token.
    """
    active, lp, q = _policy(logprobs, inputs)
    # Without an upper bound an overflow to inf is the true answer, and the optimizer refuses it by name.
    low, high = config.get("clip_low_threshold"), config.get("clip_high_threshold")
    ratio = torch.exp(lp - q if high is None else _below_overflow(lp - q))
    if low is not None or high is not None:
        ratio = ratio.clamp(low, high)
    return _weighted(active, -ratio * inputs.advantages, inputs)


def ppo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-min(r * A, clamp(r, low, high) * A) (Schulman et al. 2017, arXiv:1707.06347, equation 7)."""
    active, lp, q = _policy(logprobs, inputs)
    # Where A > 0 the upper bound takes over.
    ratio = torch.exp(torch.where(inputs.advantages > 0, _below_overflow(lp - q), lp - q))
    clipped = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return _weighted(active, -torch.minimum(ratio * inputs.advantages, clipped * inputs.advantages), inputs)


def cispo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-stopgrad(clamp(r, low, high)) * lp * A (MiniMax-M1, arXiv:2506.13585, equation 4)."""
    active, lp, q = _policy(logprobs, inputs)
    ratio = torch.exp(lp.detach() - q).clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return _weighted(active, -ratio * lp * inputs.advantages, inputs)


def dro(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-(lp * A - beta / 2 * (lp - q)^2) (Richemond et al. 2024, arXiv:2405.19107, equation 8, per token).

    Positions with zero advantage are left out with their quadratic term: a prompt has advantage 0 and q 0, and must
    not be pulled towards probability 1.
    """
    beta = config["beta"]
    assert beta is not None
    active, lp, q = _policy(logprobs, inputs)
    return _weighted(active, -(lp * inputs.advantages - 0.5 * beta * (lp - q).square()), inputs)


def _policy(logprobs: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    # Replaced, not only masked afterwards: 0 * inf of a masked position would be NaN in value and gradient.
    active = (inputs.advantages != 0) & (inputs.weights != 0)
    return active, torch.where(active, logprobs, 0.0), torch.where(active, inputs.logprobs, 0.0)


def _below_overflow(log_ratio: Tensor) -> Tensor:
    """Cap log r where r would overflow: a bound clips it there, and its gradient must be 0, not 0 * inf."""
    return log_ratio.clamp_max(math.log(torch.finfo(log_ratio.dtype).max))


def _weighted(active: Tensor, loss: Tensor, inputs: LossInputs) -> Tensor:
    return torch.where(active, loss * inputs.weights, 0.0)


LOSS_FUNCTIONS: dict[str, Callable[[Tensor, LossInputs, Config], Tensor]] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
}
