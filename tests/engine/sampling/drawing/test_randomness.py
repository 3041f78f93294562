"""Counter-based random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.sampling.drawing.randomness import exponentials, stream_base, stream_keys, substream

MASK = 2**64 - 1
INT64 = st.integers(-(2**63), 2**63 - 1)


def reference_mix(x: int) -> int:
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_mixing_is_splitmix64() -> None:
    # First outputs of the published generator with seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    keys = torch.tensor([1234567])
    expected = [-math.log(((x >> 11) + 0.5) * 2.0**-53) for x in known]
    assert exponentials(keys, 3)[0].tolist() == pytest.approx(expected, rel=1e-15)


@given(INT64, st.integers(0, 10_000))
def test_tensors_wrap_like_unsigned_integers(base: int, position: int) -> None:
    key = stream_keys(torch.tensor([base]), torch.tensor([position]))
    assert int(key[0]) & MASK == reference_mix(base + position * 0x9E3779B97F4A7C15)
    u = ((reference_mix(int(key[0]) + 0x9E3779B97F4A7C15) >> 11) + 0.5) * 2.0**-53
    assert exponentials(key, 1).item() == pytest.approx(-math.log(u), rel=1e-15)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 1000))
def test_seeds_count_by_their_64_bits(seed: int, sample: int) -> None:
    assert stream_base(seed, sample) == stream_base(seed + 2**64, sample) == stream_base(seed - 2**64, sample)
    assert -(2**63) <= stream_base(seed, sample) < 2**63


def test_streams_differ_by_seed_sample_position_and_substream() -> None:
    bases = torch.tensor([stream_base(seed, sample) for seed in range(-20, 20) for sample in range(20)])
    keys = torch.cat([stream_keys(bases, torch.full_like(bases, position)) for position in range(50)])
    both = torch.cat([substream(keys, 1), substream(keys, 2), keys])
    assert both.unique().numel() == 3 * 40 * 20 * 50


def test_numbers_are_exponential_and_uncorrelated() -> None:
    bases = torch.tensor([stream_base(7, sample) for sample in range(200)])
    positions = torch.arange(100)
    keys = stream_keys(bases.repeat_interleave(100), positions.repeat(200))
    x = exponentials(keys, 16)
    assert bool((x > 0).all())
    n = x.numel()
    assert x.mean().item() == pytest.approx(1, abs=5 / n**0.5)
    assert (x < math.log(2)).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / n**0.5)
    uniform = (-x).exp() - 0.5
    cube = uniform.view(200, 100, 16)
    for a, b in ((cube[1:], cube[:-1]), (cube[:, 1:], cube[:, :-1]), (cube[..., 1:], cube[..., :-1])):
        assert (a * b).mean().item() == pytest.approx(0, abs=5 / 12 / a.numel() ** 0.5)
