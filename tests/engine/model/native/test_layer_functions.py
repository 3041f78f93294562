"""A layer's functions in C against the formulas in float64, differentiated by torch, and what NaN does to them.

In bfloat16 the formulas see the same rounded inputs; forward passes also round where torch's operations do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.threads import on_threads
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.training import layer_functions
from tinsmith.engine.model.native.training.layer_functions import AddNorm, Swiglu, Turn, exponentials, run_here
from tinsmith.engine.model.norms import RmsNorm

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler")

ROWS, WIDTHS = st.integers(1, 40), st.integers(1, 70)
EPS = 1e-6
# Of the norm of what is compared: in bfloat16 up to four roundings, each by 2^-9 at most.
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 4 * 2.0**-9}
of_each_dtype = pytest.mark.parametrize("dtype", [d for d in BOUNDS if run_here(torch.empty(0, dtype=d))])
in_bfloat16 = pytest.mark.skipif(
    not run_here(torch.empty(0, dtype=torch.bfloat16)), reason="this processor does not round to bfloat16"
)


def _numbers(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _agree(found: Callable[..., Any], formula: Callable[..., Any], *inputs: Tensor) -> bool:
    """Whether outputs, and the gradients of a weighted sum of them, are those of float64 but for rounding."""
    results: list[list[Tensor]] = []
    own = inputs[0].dtype
    for function, dtype in ((found, own), (formula, torch.float64)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = [_numbers(*y.shape, seed=9 + i, dtype=own).to(dtype) for i, y in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    # Where numbers nearly cancel, it is these that were rounded and not what is left of them.
    least = 1e-12 if own == torch.float32 else 2.0**-9 * sum(float(x.norm()) for x in inputs)
    return all(
        (ours.double() - wanted).norm() <= BOUNDS[own] * wanted.norm() + least
        for ours, wanted in zip(*results, strict=True)
    )


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.to(x.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos[:, None].to(x.dtype) + torch.cat([-b, a], -1) * sin[:, None].to(x.dtype)


@of_each_dtype
@given(rows=ROWS, width=WIDTHS)
def test_a_sum_and_its_norm(dtype: torch.dtype, rows: int, width: int) -> None:
    weight = _numbers(width, seed=2, dtype=dtype)
    assert _agree(
        lambda x, delta: AddNorm.apply(x, delta, weight, EPS),
        lambda x, delta: (x + delta, _norm(x + delta, weight)),
        _numbers(rows, width, dtype=dtype),
        _numbers(rows, width, seed=1, dtype=dtype),
    )


@of_each_dtype
@given(rows=ROWS, width=WIDTHS)
def test_a_norm_alone_hands_on_what_it_got(dtype: torch.dtype, rows: int, width: int) -> None:
    weight = _numbers(width, seed=2, dtype=dtype)
    assert _agree(
        lambda x: AddNorm.apply(x, None, weight, EPS),
        lambda x: (x * 1, _norm(x, weight)),
        _numbers(rows, width, dtype=dtype),
    )


@of_each_dtype
@given(rows=ROWS, heads=st.integers(1, 5), half=st.integers(1, 40), normed=st.booleans())
def test_heads_are_normed_and_rotated(dtype: torch.dtype, rows: int, heads: int, half: int, normed: bool) -> None:
    # Not those of one angle for both halves, which all models have and the formula does not ask for.
    cos, sin = _numbers(rows, 2 * half, seed=1).cos().to(dtype), _numbers(rows, 2 * half, seed=2).sin().to(dtype)
    weight = _numbers(2 * half, seed=3, dtype=dtype) if normed else None
    assert _agree(
        lambda x: Turn.apply(x, weight, EPS, cos, sin),
        lambda x: _rotated(x if weight is None else _norm(x, weight), cos, sin),
        _numbers(rows, heads, 2 * half, dtype=dtype),
    )


@of_each_dtype
@given(rows=ROWS, width=WIDTHS, scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_swiglu(dtype: torch.dtype, rows: int, width: int, scale: float) -> None:
    gate, up = _numbers(rows, width, dtype=dtype) * scale, _numbers(rows, width, seed=1, dtype=dtype)
    assert _agree(Swiglu.apply, lambda gate, up: F.silu(gate) * up, gate, up)


def _norm_of_modules(x: Tensor, weight: Tensor) -> Tensor:
    return RmsNorm.apply(x, weight, EPS)  # pyright: ignore[reportReturnType]


@in_bfloat16
@torch.no_grad()
def test_bfloat16_is_rounded_where_the_modules_round() -> None:
    x, delta, weight = _numbers(60, 72), _numbers(60, 72, seed=1), _numbers(72, seed=2)
    x, delta, weight = x.bfloat16(), delta.bfloat16(), weight.bfloat16()
    cos, sin = _numbers(60, 24, seed=3).cos().bfloat16(), _numbers(60, 24, seed=4).sin().bfloat16()
    heads, own = x.view(60, 3, 24), weight[:24]
    pairs = [
        *zip(AddNorm.apply(x, delta, weight, EPS), (x + delta, _norm_of_modules(x + delta, weight)), strict=True),
        (Turn.apply(heads, own, EPS, cos, sin), _rotated(_norm_of_modules(heads, own), cos, sin)),
        (Turn.apply(heads, None, EPS, cos, sin), _rotated(heads, cos, sin)),
        (Swiglu.apply(x, delta), F.silu(x) * delta),
    ]
    for found, wanted in pairs:
        # But for a statistic or a power now and then that is about to be rounded either way.
        assert (found != wanted).float().mean() < 2e-3


@pytest.mark.parametrize("value", [-1e4, -88.0, 88.0, 1e4, 3e38, -3e38])
def test_swiglu_of_large_numbers(value: float) -> None:
    gate, up = torch.tensor([value], requires_grad=True), torch.tensor([1.5], requires_grad=True)
    found = Swiglu.apply(gate, up)
    torch.testing.assert_close(found, F.silu(gate) * up, atol=1e-30, rtol=1e-5)
    for ours, wanted in zip(
        torch.autograd.grad(found, (gate, up)), torch.autograd.grad(F.silu(gate) * up, (gate, up)), strict=True
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-30, rtol=1e-5)


@of_each_dtype
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(dtype: torch.dtype, value: float) -> None:
    clean, bad = _numbers(5, 24, dtype=dtype), _numbers(5, 24, dtype=dtype)
    bad[2, 3] = value
    cos, sin = _numbers(5, 8).cos().to(dtype), _numbers(5, 8).sin().to(dtype)
    ones = torch.ones(24, dtype=dtype)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: AddNorm.apply(x, x, ones, EPS)[1],
        lambda x: Turn.apply(x.view(5, 3, 8), ones[:8], EPS, cos, sin).view(5, 24),
        lambda x: Swiglu.apply(x, x),
    ]
    others = [0, 1, 3, 4]
    for function in functions:
        leaves = [x.clone().requires_grad_() for x in (clean, bad)]
        outputs = [function(x) for x in leaves]
        gradients = [torch.autograd.grad(y, x, torch.ones_like(y))[0] for x, y in zip(leaves, outputs, strict=True)]
        for a, b in (outputs, gradients):
            assert torch.equal(a[others], b[others])
        assert not outputs[1][2].isfinite().all()


@of_each_dtype
def test_bits_do_not_follow_the_number_of_threads(dtype: torch.dtype) -> None:
    ones = torch.ones(37, 48, dtype=dtype)

    def run() -> tuple[Tensor, Tensor]:
        x = _numbers(37, 48, dtype=dtype).requires_grad_()
        y = Swiglu.apply(AddNorm.apply(x, x, ones[0], EPS)[1], x)
        y = Turn.apply(y.view(37, 6, 8), ones[0, :8], EPS, ones[:, :8].contiguous(), ones[:, :8].contiguous())
        return y, torch.autograd.grad(y, x, torch.ones_like(y))[0]

    first, *others = on_threads((1, 2, 3), run)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@of_each_dtype
@pytest.mark.parametrize("width", [1, 15, 17, 31, 33])
def test_nothing_behind_the_last_number_is_written(dtype: torch.dtype, width: int) -> None:
    x, angles = _numbers(3, width, dtype=dtype), _numbers(3, 2 * width, dtype=dtype)
    factor = torch.zeros(3)

    def room(size: int) -> Tensor:
        return torch.full((size + 64,), 7.0, dtype=dtype)

    total, normed, gated, turned = room(3 * width), room(3 * width), room(3 * width), room(6 * width)
    layer_functions._call("add_norm", total, normed, factor, x, x, x[0], 3, width, EPS)
    layer_functions._call("swiglu", gated, x, x, 3 * width)
    layer_functions._call("turn", turned, factor, angles, None, angles, angles, 3, 1, 2 * width, EPS)
    for found, size in ((total, 3 * width), (normed, 3 * width), (gated, 3 * width), (turned, 6 * width)):
        assert (found[size:] == 7).all()
        assert not (found[:size] == 7).any()


@given(rows=ROWS, width=st.integers(1, 3000), scale=st.sampled_from([1.0, 100.0]))
def test_exponentials_of_logits(rows: int, width: int, scale: float) -> None:
    z = _numbers(rows, width) * scale
    wanted = (z - z.amax(-1, keepdim=True)).double()
    found = z.clone()
    peak, total = exponentials(found)
    assert torch.equal(peak, z.amax(-1, keepdim=True))
    assert ((found - wanted.exp()).abs() <= 1e-6 * wanted.exp() + 1e-37).all()
    assert ((total - wanted.exp().sum(-1, keepdim=True)).abs() <= 1e-6 * total).all()


@pytest.mark.parametrize("place", [0, 40, 69])
def test_logits_that_are_not_finite(place: int) -> None:
    z = _numbers(3, 70)
    z[0, place], z[1, place] = torch.nan, -torch.inf
    peak, total = exponentials(z)
    assert total[0].isnan()
    assert z[1, place] == 0
    assert torch.stack([peak[1:], total[1:]]).isfinite().all()
