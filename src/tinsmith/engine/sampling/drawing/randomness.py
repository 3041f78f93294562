"""Counter-based random numbers: each depends only on (seed, sample, position), never on what else runs.

A stream is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", figure 16) started
at a key that is itself mixed from seed, sample and position. No state is kept, so that a sequence which is preempted,
batched with others or resumed elsewhere draws the same numbers. Arithmetic is modulo 2^64; torch has no unsigned
64-bit arithmetic on every device, so tensors hold the same bits as int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

# 2^64 / golden ratio, and the multipliers of Stafford's mixing function 13, as in the paper's figure 16.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 2**64 - 1


def stream_base(seed: int, sample: int) -> int:
    """Return the signed 64-bit base of the streams of one sample.

    Args:
        seed: any whole number; its lowest 64 bits count, so that -1 and 2^64 - 1 are one seed.
        sample: any whole number, likewise.
    """
    return _signed(_mix_int(_mix_int((seed + _GOLDEN) & _MASK) + sample * _GOLDEN & _MASK))


def stream_keys(bases: Tensor, positions: Tensor) -> Tensor:
    """Return the key of each sequence's stream at its position.

    Args:
        bases: int64 [S], from `stream_base`.
        positions: int64 [S], the index in its sequence of the token that is drawn.
    """
    return _mix(bases + positions * _signed(_GOLDEN))


def substream(keys: Tensor, number: int) -> Tensor:
    """Return keys, int64 [S], of an independent stream per key."""
    return _mix(keys ^ _signed(_mix_int(number * _GOLDEN & _MASK)))


def exponentials(keys: Tensor, count: int) -> Tensor:
    """Return `count` exponential variates of mean 1 from each stream: float64 [S, count], all above 0."""
    # 53 bits, the precision of a float64, in the middle of their intervals: never 0, whose logarithm is -inf, nor 1.
    lanes = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _shift_right(_mix(keys[:, None] + lanes), 11)
    return bits.to(torch.float64).add_(0.5).mul_(2.0**-53).log_().neg_()


def _mix_int(x: int) -> int:
    x = (x ^ (x >> 30)) * _MIX_1 & _MASK
    x = (x ^ (x >> 27)) * _MIX_2 & _MASK
    return x ^ (x >> 31)


def _mix(x: Tensor) -> Tensor:
    # In place from the first result on: a batch's numbers are megabytes.
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_signed(_MIX_1))
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_signed(_MIX_2))
    return _shift_right(x, 31).bitwise_xor_(x)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # >> on int64 copies the sign bit; the mask makes the shift logical.
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
