"""Learning-rate schedules: which share of the learning rate a step gets, as functions of the step alone.

Nothing is remembered between steps, so a run that carries on takes the rates that the uninterrupted one takes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from tinsmith.types.errors import invalid

Schedule = Literal["constant", "linear", "cosine"]


def constant(step: int, total: int) -> float:
    """Return 1."""
    return 1.0


def linear(step: int, total: int) -> float:
    """Return 1 - step / total: 1 at the first step, 1 / total at the last."""
    # At the last step the rate is 1 / total and not 0: every batch teaches something.
    return 1.0 - step / total


def cosine(step: int, total: int) -> float:
    """Return ½ · (1 + cos(π · step / total)): one cycle from 1 to 0.

    Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.
    """
    return 0.5 * (1.0 + math.cos(math.pi * step / total))


_SHAPES = {"constant": constant, "linear": linear, "cosine": cosine}


def rate_share(schedule: Schedule, step: int, total: int, warmup_steps: int = 0) -> float:
    """Return the share of the learning rate that a step gets, in (0, 1].

    The first W = `warmup_steps` steps get (step + 1) / (W + 1); the schedule spans the total - W steps after them, so
    step W is the first at the full rate.

    Args:
        schedule: `constant`, `linear` or `cosine`.
        step: 0 to total - 1.
        total: steps of the whole run.
        warmup_steps: steps that lead up to the full rate; fewer than `total`.

    Raises:
        UserError: no such schedule, or a number is out of range.
    """
    if schedule not in _SHAPES:
        raise invalid("lr_schedule", schedule, f"one of {', '.join(get_args(Schedule))}")
    if not 0 <= step < total:
        raise invalid("step", step, f"0 to {total - 1}, the steps of the run")
    check_warmup(warmup_steps, total)
    # W + 1 below the line, so that the first step already moves the weights and step W has the whole rate.
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return _SHAPES[schedule](step - warmup_steps, total - warmup_steps)


def check_warmup(warmup_steps: int, total: int) -> None:
    """Check that a run leaves its warm-up.

    Raises:
        UserError: it does not.
    """
    if not 0 <= warmup_steps < total:
        raise invalid("warmup_steps", warmup_steps, f"0 to {total - 1}: the run has {total} steps")
