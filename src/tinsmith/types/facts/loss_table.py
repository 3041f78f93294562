"""The table of losses: what each reads, which config keys it knows. Formulas: `engine/training/losses.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinsmith.types.errors import invalid

# Dtypes of the loss inputs that may be given as plain lists.
INPUT_DTYPES: dict[str, str] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "sequence_ratio_mask": "float32",
}


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What a loss reads.

    Attributes:
        required: inputs that every datum must have.
        optional: inputs that a datum may have.
        config: config keys with their defaults; None means off.
        least: the smallest value of a config key, where that is not 0.
        recorded: the service itself fills in `logprobs`, from what it recorded of the sequences that the datums name.
        allows_2d: whether target_tokens and weights may have shape (N, K).
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    config: dict[str, float | None] = field(default_factory=dict[str, float | None])
    least: dict[str, float] = field(default_factory=dict[str, float])
    recorded: bool = False
    allows_2d: bool = False


# What a policy gradient reads: the sampled tokens, their logprobs at sampling time, and their advantages.
_POLICY = ("target_tokens", "logprobs", "advantages")

# Where the protocol leaves a default open (`dro`, `gspo`, `stable_reinforce`), it is ours.
LOSSES: dict[str, LossSpec] = {
    "cross_entropy": LossSpec(("target_tokens",), ("weights",), allows_2d=True),
    "importance_sampling": LossSpec(_POLICY, ("weights",), {"clip_low_threshold": None, "clip_high_threshold": None}),
    "ppo": LossSpec(_POLICY, ("weights",), {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    "cispo": LossSpec(_POLICY, ("weights",), {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
    "dro": LossSpec(_POLICY, ("weights",), {"beta": 0.05}),
    "gspo": LossSpec(
        _POLICY, ("weights", "sequence_ratio_mask"), {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    ),
    # A truncation below 1 would take weight from tokens that the current policy has drawn itself.
    "stable_reinforce": LossSpec(
        _POLICY,
        ("weights",),
        {"kl_coeff": 0.01, "clip_high_threshold": 2.0},
        least={"clip_high_threshold": 1.0},
        recorded=True,
    ),
}

# Said once in the life of a service, and of a process that trains with it.
OWN_FORMULA = (
    "loss_fn %r: what the hosted service computes is not published; this is Tinsmith's own, see docs/losses.md"
)


def resolve_config(loss_fn: str, config: dict[str, Any] | None) -> dict[str, float | None]:
    """Return the loss's config with its defaults filled in.

    Raises:
        UserError: the loss or a key is unknown, or a value is out of range.
    """
    if loss_fn not in LOSSES:
        raise invalid("loss_fn", loss_fn, f"one of {', '.join(LOSSES)}")
    resolved = dict(LOSSES[loss_fn].config)
    for key, value in (config or {}).items():
        name = f"loss_fn_config[{key!r}]"
        if key not in resolved:
            known = ", ".join(resolved) or "no key"
            raise invalid(name, value, f"{known} for loss_fn {loss_fn!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
            raise invalid(name, value, "a finite number that is not negative")
        least = LOSSES[loss_fn].least.get(key, 0.0)
        if value < least:
            raise invalid(name, value, f"at least {least:g} for loss_fn {loss_fn!r}")
        resolved[key] = float(value)
    low, high = resolved.get("clip_low_threshold"), resolved.get("clip_high_threshold")
    if low is not None and high is not None and low > high:
        raise invalid("loss_fn_config['clip_low_threshold']", low, f"at most clip_high_threshold = {high}")
    return resolved
