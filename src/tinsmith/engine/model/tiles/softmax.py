"""Sums over the vocabulary that lose nothing and whose order depends on the vocabulary alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits that are summed in their own dtype before the sums are summed in float64.
BUCKET = 256


def bucket_sums(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum weights in buckets.

    Args:
        weights: [S, V].

    Returns:
        the weights as [S, buckets, 256], filled up with zeros, and their sums, float64 [S, buckets].
    """
    buckets = -(-weights.shape[-1] // BUCKET)
    if weights.shape[-1] % BUCKET:
        weights = F.pad(weights, (0, buckets * BUCKET - weights.shape[-1]))
    weights = weights.view(-1, buckets, BUCKET)
    # Short sums first, and those in float64: a single sum over a large vocabulary would lose digits in float32.
    return weights, weights.sum(-1).to(torch.float64)


def log_normalisers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row of logits [S, V], and log sum exp(logit - largest) in float64, [S] each."""
    peak = logits.amax(-1)
    _, mass = bucket_sums((logits - peak[:, None]).exp_())
    return peak, mass.sum(-1).log()
