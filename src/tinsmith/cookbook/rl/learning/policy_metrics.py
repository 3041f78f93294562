"""What a step tells of the policies: how far the learner is from the sampler, entropy, and how much is clipped.

q is a token's logprob when it was sampled, p under the weights that learn. Expectations are over sampled tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.types.facts.loss_table import resolve_config

Floats = npt.NDArray[np.float64]


def action_logprobs(examples: Sequence[Example], outputs: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats, Floats]:
    """Return q, p and the advantage of every action token of some examples, flat.

    Args:
        examples: that were forwarded.
        outputs: of `forward_backward`, one for each.
    """
    q: list[float] = []
    p: list[npt.NDArray[Any]] = []
    advantages: list[float] = []
    for example, output in zip(examples, outputs, strict=True):
        # Position i of the datum predicts token i + 1.
        spoken = np.flatnonzero(example.action[1:])
        p.append(output["logprobs"].to_numpy()[spoken])
        q += [example.logprobs[i + 1] for i in spoken]
        advantages += [example.advantages[i + 1] for i in spoken]
    learner = np.concatenate(p).astype(np.float64) if p else np.zeros(0)
    return np.asarray(q, dtype=np.float64), learner, np.asarray(advantages, dtype=np.float64)


def kl_estimates(q: Floats, p: Floats) -> dict[str, float]:
    """Return two estimates of KL(sampler || learner), in nats per token.

    `kl_sampler_learner` is the mean of q - p, which is unbiased and may be below zero by chance; `..._k2` is half the
    mean of its square, which has a small bias and little variance (Schulman 2020, "Approximating KL divergence",
    estimators k1 and k2).
    """
    if not q.size:
        return {}
    difference = q - p
    return {
        "kl_sampler_learner": float(difference.mean()),
        "kl_sampler_learner_k2": float(0.5 * np.square(difference).mean()),
    }


def clip_share(
    q: Floats, p: Floats, advantages: Floats, loss_fn: str, config: Mapping[str, float] | None
) -> float | None:
    """Return the share of action tokens whose ratio exp(p - q) is bounded by the loss; None where it bounds none.

    For `ppo` a ratio outside the bounds counts only where the bound takes over: above it for positive advantages, below
    it for negative ones (arXiv:1707.06347, figure 1).
    """
    resolved = resolve_config(loss_fn, dict(config or {}))
    low, high = resolved.get("clip_low_threshold"), resolved.get("clip_high_threshold")
    # `gspo` bounds the ratio of whole sequences, which is another number.
    if loss_fn == "gspo" or not q.size or (low is None and high is None):
        return None
    with np.errstate(over="ignore"):
        ratio = np.exp(p - q)
    above = ratio > (np.inf if high is None else high)
    below = ratio < (-np.inf if low is None else low)
    if loss_fn == "ppo":
        above, below = above & (advantages > 0), below & (advantages < 0)
    return float((above | below).mean())
