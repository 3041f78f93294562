"""Advantages of the episodes of a group, from their rewards alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from tinsmith.types.errors import invalid

# From the G rewards of a group to G advantages.
AdvantageFunction = Callable[[Sequence[float]], Sequence[float]]

# Below this share of the largest reward a deviation is what rounding leaves of equal rewards.
_EQUAL = 1e-9


def mean_baseline(rewards: Sequence[float]) -> list[float]:
    """Return reward - mean of the group (Liu et al. 2025, arXiv:2503.20783, section 3.2: GRPO without its biases)."""
    mean = fmean(rewards) if rewards else 0.0
    return [reward - mean for reward in rewards]


def standardized(rewards: Sequence[float]) -> list[float]:
    """Return (reward - mean) / standard deviation of the group (Shao et al. 2024, arXiv:2402.03300, section 4.1.2).

    The deviation is that of the group itself (divided by G). Equal rewards give zeros.
    """
    centered = mean_baseline(rewards)
    deviation = math.sqrt(fmean(value * value for value in centered)) if centered else 0.0
    if deviation <= _EQUAL * max((abs(reward) for reward in rewards), default=0.0):
        return [0.0] * len(centered)
    return [value / deviation for value in centered]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Return reward - mean of the others (Ahmadian et al. 2024, arXiv:2402.14740, equation 8: RLOO).

    A group of one has nothing to compare with: its advantage is 0.
    """
    others = len(rewards) - 1
    return [value * len(rewards) / others for value in mean_baseline(rewards)] if others > 0 else [0.0] * len(rewards)


ADVANTAGES: dict[str, AdvantageFunction] = {
    "mean": mean_baseline,
    "mean_std": standardized,
    "leave_one_out": leave_one_out,
}


def compute_advantages(rewards: Sequence[float], function: AdvantageFunction = mean_baseline) -> list[float]:
    """Return the advantages of a group.

    Args:
        rewards: G rewards.
        function: one of `ADVANTAGES`, or one's own.

    Raises:
        UserError: the function gives another number of advantages, or one that is not finite.
    """
    advantages = [float(value) for value in function(rewards)]
    if len(advantages) != len(rewards) or not all(map(math.isfinite, advantages)):
        raise invalid("advantages", advantages, f"{len(rewards)} finite numbers, one for each reward")
    return advantages


def is_constant(rewards: Sequence[float]) -> bool:
    """Return whether all rewards of a group are equal, so that they say nothing about what is better."""
    return len(set(rewards)) < 2
