"""Checks of numbers in a config; `get_lr` under the name that the course imports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinsmith.cookbook.hyperparam_utils import get_lr, recommended_lr, recommended_rl_lr
from tinsmith.types.errors import invalid

__all__ = ["at_least", "get_lr", "positive", "recommended_lr", "recommended_rl_lr"]


def at_least(least: int) -> Callable[[Any, str], None]:
    """Return a chz validator of a finite number, `least` or more; what is no number is for the check of types."""

    def check(config: Any, field: str) -> None:
        value = getattr(config, field)
        # NaN fails every comparison, and so this one; infinity is no setting either.
        if isinstance(value, int | float) and not least <= value < math.inf:
            raise invalid(field.removeprefix("X_"), value, f"at least {least}" if value < least else "a finite number")

    return check


def positive(config: Any, field: str) -> None:
    """Check as a chz validator that a number is finite and above zero; what is no number is for the check of types."""
    value = getattr(config, field)
    if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
        raise invalid(field.removeprefix("X_"), value, "a finite number above 0")
