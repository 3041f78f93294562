"""The table of losses: what each reads, which config keys it knows.

Formulas: `engine/training/losses.py` and, of losses over pairs, `engine/training/paired_losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinsmith.types.errors import invalid

# Engines compute in float32 or wider; what goes beyond it would be infinite there.
LARGEST_NUMBER = float(np.finfo(np.float32).max)

# Dtypes of the loss inputs that may be given as plain lists.
INPUT_DTYPES: dict[str, str] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "sequence_ratio_mask": "float32",
    "ref_logprobs": "float32",
}

# The config key that says which weights a loss over pairs measures against, and its value for the base model itself.
REFERENCE_KEY = "reference"
BASE_REFERENCE = "base"


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What a loss reads.

    Attributes:
        required: inputs that every datum must have.
        optional: inputs that a datum may have.
        config: config keys with their defaults; None means off.
        least: the smallest value of a config key, where that is not 0.
        most: the largest value of a config key, where there is one.
        positive: config keys that must not be 0.
        texts: config keys whose value is text; they choose what a formula is given, and no formula reads them.
        recorded: the service itself fills in `logprobs`, from what it recorded of the sequences that the datums name.
        allows_2d: whether target_tokens and weights may have shape (N, K).
        paired: whether datums come in pairs, chosen and rejected one behind the other, which nothing may part.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    config: dict[str, float | None] = field(default_factory=dict[str, float | None])
    least: dict[str, float] = field(default_factory=dict[str, float])
    most: dict[str, float] = field(default_factory=dict[str, float])
    positive: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    recorded: bool = False
    allows_2d: bool = False
    paired: bool = False

    @property
    def referenced(self) -> bool:
        """Whether it reads the logprobs of a reference."""
        return REFERENCE_KEY in self.texts


# What a policy gradient reads: the sampled tokens, their logprobs at sampling time, and their advantages.
_POLICY = ("target_tokens", "logprobs", "advantages")
# What a loss over pairs reads: the tokens, and which of them are the completion.
_COMPLETION = ("target_tokens", "weights")

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
    # Tokens of weight 0 are the prompt's. KTO is no row here: its loss needs a divergence over the whole batch, and a
    # batch may come in several requests.
    "dpo": LossSpec(
        _COMPLETION,
        ("ref_logprobs",),
        {"dpo_beta": 0.1, "label_smoothing": 0.0, "nll_coeff": 0.0},
        most={"label_smoothing": 0.5},
        positive=("dpo_beta",),
        texts=(REFERENCE_KEY,),
        paired=True,
    ),
    "ipo": LossSpec(
        _COMPLETION,
        ("ref_logprobs",),
        {"ipo_beta": 0.1},
        positive=("ipo_beta",),
        texts=(REFERENCE_KEY,),
        paired=True,
    ),
    "simpo": LossSpec(_COMPLETION, (), {"simpo_beta": 2.0, "simpo_gamma": 1.0}, positive=("simpo_beta",), paired=True),
}

# Said once in the life of a service, and of a process that trains with it.
OWN_FORMULA = (
    "loss_fn %r: what the hosted service computes is not published; this is Tinsmith's own, see docs/losses.md"
)


def unit_of(loss_fn: str) -> int:
    """Return how many datums, one behind the other, a loss is computed of; 1 for a loss that is not known."""
    spec = LOSSES.get(loss_fn)
    return 2 if spec is not None and spec.paired else 1


def resolve_config(loss_fn: str, config: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return the numbers of a loss's config with their defaults filled in; its texts are checked and left out.

    Raises:
        UserError: the loss or a key is unknown, or a value is out of range.
    """
    if loss_fn not in LOSSES:
        raise invalid("loss_fn", loss_fn, f"one of {', '.join(LOSSES)}")
    spec = LOSSES[loss_fn]
    resolved = dict(spec.config)
    for key, value in (config or {}).items():
        name = f"loss_fn_config[{key!r}]"
        if key in spec.texts:
            _check_text(name, value)
            continue
        if key not in resolved:
            known = ", ".join((*resolved, *spec.texts)) or "no key"
            raise invalid(name, value, f"{known} for loss_fn {loss_fn!r}")
        resolved[key] = _number(name, key, value, loss_fn)
    low, high = resolved.get("clip_low_threshold"), resolved.get("clip_high_threshold")
    if low is not None and high is not None and low > high:
        raise invalid("loss_fn_config['clip_low_threshold']", low, f"at most clip_high_threshold = {high}")
    return resolved


def _number(name: str, key: str, value: Any, loss_fn: str) -> float:
    spec = LOSSES[loss_fn]
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
        raise invalid(name, value, "a finite number that is not negative")
    if value < (least := spec.least.get(key, 0.0)):
        raise invalid(name, value, f"at least {least:g} for loss_fn {loss_fn!r}")
    if value > (most := spec.most.get(key, LARGEST_NUMBER)):
        raise invalid(name, value, f"at most {most:g} for loss_fn {loss_fn!r}")
    if key in spec.positive and value == 0:
        raise invalid(name, value, f"more than 0 for loss_fn {loss_fn!r}")
    return float(value)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not (value == BASE_REFERENCE or value.startswith("tinker://")):
        raise invalid(name, value, f"{BASE_REFERENCE!r} or the path of saved weights (tinker://...)")
