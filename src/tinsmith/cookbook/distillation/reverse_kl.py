"""Reverse KL to a teacher, per token: of the token that was sampled, or over the teacher's likeliest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
# Below this probability a rest is what rounding leaves of none; its log would be noise.
_LEAST = 1e-6


def kl_advantages(differences: Floats, action: Sequence[bool], discount: float) -> Floats:
    """Return the advantage of each of N tokens: minus the reverse KL of it, and with a discount of those after it.

    A_t = -sum over s >= t of discount^(s - t) * d_s, over the action tokens of a sequence, with d = log pi(token) - log
    pi_teacher(token). At discount 0 this is the per-token reward of on-policy distillation (Lu and Thinking Machines
    2025, "On-Policy Distillation"), whose expectation is minus the reverse KL at that place; at 1 it is the policy
    gradient of the sequence's reverse KL (Gu et al. 2023, arXiv:2306.08543, section 2.2).

    Args:
        differences: d of N tokens, 0 where none was sampled.
        action: whether each token was sampled.
        discount: 0 to 1.
    """
    advantages = np.zeros(len(differences))
    later = 0.0
    for place in reversed(np.flatnonzero(np.asarray(action))):
        later = differences[place] + discount * later
        advantages[place] = -later
    return advantages


def top_k_reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the reverse KL over the teacher's k likeliest tokens and one bucket for all others, [S] in nats.

    sum over v in top-k of pi(v) * (log pi(v) - log T(v)), plus r * (log r - log r_T), where r and r_T are what student
    and teacher leave for all other tokens. It is the reverse KL of Agarwal et al. 2023 (arXiv:2306.13649,
    section 2) after tokens outside of the top-k were counted as one, and so never more than that over all tokens.

    Args:
        student: [S, K] logprobs of those tokens under the student, with their graph.
        teacher: [S, K] under the teacher; -inf where it has fewer.
    """
    import torch

    there = torch.isfinite(teacher)
    pi = torch.where(there, student.exp(), 0.0)
    within = torch.where(there, pi * (student - torch.where(there, teacher, 0.0)), 0.0).sum(-1)
    rest = (1 - pi.sum(-1)).clamp_min(_LEAST)
    teacher_rest = (1 - torch.where(there, teacher, -torch.inf).exp().sum(-1)).clamp_min(_LEAST)
    return within + rest * (rest.log() - teacher_rest.log())


def soft_targets(logprobs: Floats) -> tuple[Floats, Floats]:
    """Return the teacher's likeliest tokens as targets, and how much of its probability they have.

    Args:
        logprobs: [S, K], -inf where there is no token.

    Returns:
        Weights [S, K], the probabilities divided by their sum (a place without any has zeros), and that sum [S].
    """
    probabilities = np.exp(logprobs)
    mass = probabilities.sum(-1)
    shares: Any = np.divide(probabilities, mass[:, None], out=np.zeros_like(probabilities), where=mass[:, None] > 0)
    return shares, mass
