"""Losses as pure functions of logprobs: per-position values whose sum is the loss.

lp is the target's logprob under the current policy, q under the policy that sampled it, A the advantage,
r = exp(lp - q). A position whose weight (cross entropy) or advantage times weight (the others) is zero contributes
exactly 0 to value and gradient, whatever its logprobs are: it is left out before anything is multiplied.

A row is a datum. `gspo` takes a mean over each row, and a row is never split between passes. Losses over pairs of rows
are in `paired_losses`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

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
        ratio_mask: 1 at the positions that a row's ratio is the mean of, else 0.
        reference: logprobs under the reference that a loss over pairs measures against; zeros for the others.
        rows: int64, each position's row, counted from 0 within the pass.
    """

    weights: Tensor
    logprobs: Tensor
    advantages: Tensor
    ratio_mask: Tensor
    reference: Tensor
    rows: Tensor

    def at(self, pairs: slice) -> LossInputs:
        """Return the inputs at some positions that lie side by side, as views."""
        return LossInputs(*(getattr(self, part.name)[pairs] for part in fields(self)))


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


def gspo(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-min(s * A, clamp(s, low, high) * A), s = exp(mean of lp - q over the row's masked positions).

    GSPO-token of Zheng et al. 2025 (arXiv:2507.18071, equations 13 and 14): every position has its row's ratio as
    value, and passes a gradient to its own logprob alone. As all losses here it is a sum over positions, where the
    paper divides by the length.
    """
    active, lp, _ = _policy(logprobs, inputs)
    log_ratio = _row_means(logprobs.detach() - inputs.logprobs, inputs)
    # Where A > 0 the upper bound takes over.
    log_ratio = torch.where(inputs.advantages > 0, _below_overflow(log_ratio), log_ratio)
    ratio = torch.exp(log_ratio) * torch.exp(lp - lp.detach())
    clipped = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return _weighted(active, -torch.minimum(ratio * inputs.advantages, clipped * inputs.advantages), inputs)


def stable_reinforce(logprobs: Tensor, inputs: LossInputs, config: Config) -> Tensor:
    """-stopgrad(min(r, c)) * lp * A + kl_coeff * k, with c = clip_high_threshold.

    The loss that others offer under this name is not published; this one is Tinsmith's, of published parts:

    - REINFORCE with truncated importance weights, as the policy gradient of IMPALA has them (Espeholt et al. 2018,
      arXiv:1802.01561, section 4.2);
    - k estimates KL(recorded || current): r - 1 - log r (Schulman 2020, "Approximating KL divergence", k3; as a penalty
      in Shao et al. 2024, arXiv:2402.03300, equation 4), which has that mean where the tokens were drawn from the
      recorded policy. Beyond r = c it goes on along its tangent, so that its gradient, min(r, c) - 1, is bounded too.

    Positions with zero advantage are left out, with their penalty.
    """
    cap, kl_coeff = config["clip_high_threshold"], config["kl_coeff"]
    assert cap is not None
    assert kl_coeff is not None
    active, lp, q = _policy(logprobs, inputs)
    log_ratio = lp - q
    truncated = log_ratio.clamp_max(math.log(cap))
    penalty = torch.exp(truncated) - 1 - truncated + (cap - 1) * (log_ratio - math.log(cap)).relu()
    return _weighted(active, -torch.exp(truncated.detach()) * lp * inputs.advantages + kl_coeff * penalty, inputs)


def _row_means(values: Tensor, inputs: LossInputs) -> Tensor:
    """Return, at every position, the mean of its row's values where `ratio_mask` is set; 0 where it is nowhere set."""
    masked = inputs.ratio_mask != 0
    # A row's positions lie side by side. By segments, because adding by index has no fixed order on a GPU, and a replay
    # must come to the same bits.
    lengths = torch.bincount(inputs.rows)
    sums = torch.segment_reduce(torch.where(masked, values, 0.0), "sum", lengths=lengths, unsafe=True)
    counts = torch.segment_reduce(masked.to(values.dtype), "sum", lengths=lengths, unsafe=True)
    return (sums / counts.clamp_min(1))[inputs.rows]


def _policy(logprobs: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    # Replaced, not only masked afterwards: 0 * inf of a masked position would be NaN in value and gradient.
    active = (inputs.advantages != 0) & (inputs.weights != 0)
    return active, torch.where(active, logprobs, 0.0), torch.where(active, inputs.logprobs, 0.0)


def _below_overflow(log_ratio: Tensor) -> Tensor:
    """Cap log r where r would overflow: a bound clips it there, and its gradient must be 0, not 0 * inf."""
    # Less one: the logarithm of the largest number, rounded, may be that of infinity.
    return log_ratio.clamp_max(math.log(torch.finfo(log_ratio.dtype).max) - 1)


def _weighted(active: Tensor, loss: Tensor, inputs: LossInputs) -> Tensor:
    return torch.where(active, loss * inputs.weights, 0.0)


LOSS_FUNCTIONS: dict[str, Callable[[Tensor, LossInputs, Config], Tensor]] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
    "gspo": gspo,
    "stable_reinforce": stable_reinforce,
}

# Their loss at a position depends on its own logprob alone; that of the others on a whole row or a pair of rows.
PER_POSITION = frozenset(LOSS_FUNCTIONS) - {"gspo"}
