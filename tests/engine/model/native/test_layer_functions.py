"""A layer's functions in C against the formulas in float64, differentiated by torch, and what NaN does to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.training.layer_functions import AddNorm, Swiglu, Turn, exponentials

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler")

ROWS, WIDTHS = st.integers(1, 40), st.integers(1, 70)
EPS = 1e-6


def _numbers(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def _agree(found: Callable[..., Any], formula: Callable[..., Any], *inputs: Tensor) -> bool:
    """Whether outputs, and the gradients of a weighted sum of them, are those of float64 but for rounding."""
    results: list[list[Tensor]] = []
    for function, dtype in ((found, torch.float32), (formula, torch.float64)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((y * _numbers(*y.shape, seed=9 + i).to(dtype)).sum() for i, y in enumerate(outputs))
        assert isinstance(total, Tensor)
        results.append([*outputs, *torch.autograd.grad(total, leaves)])
    return all((ours - wanted).norm() <= 1e-6 * wanted.norm() + 1e-12 for ours, wanted in zip(*results, strict=True))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.to(x.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos[:, None].to(x.dtype) + torch.cat([-b, a], -1) * sin[:, None].to(x.dtype)


@given(rows=ROWS, width=WIDTHS)
def test_a_sum_and_its_norm(rows: int, width: int) -> None:
    weight = _numbers(width, seed=2)
    assert _agree(
        lambda x, delta: AddNorm.apply(x, delta, weight, EPS),
        lambda x, delta: (x + delta, _norm(x + delta, weight)),
        _numbers(rows, width),
        _numbers(rows, width, seed=1),
    )


@given(rows=ROWS, width=WIDTHS)
def test_a_norm_alone_hands_on_what_it_got(rows: int, width: int) -> None:
    weight = _numbers(width, seed=2)
    assert _agree(
        lambda x: AddNorm.apply(x, None, weight, EPS), lambda x: (x * 1, _norm(x, weight)), _numbers(rows, width)
    )


@given(rows=ROWS, heads=st.integers(1, 5), half=st.integers(1, 40), normed=st.booleans())
def test_heads_are_normed_and_rotated(rows: int, heads: int, half: int, normed: bool) -> None:
    # Not those of one angle for both halves, which all models have and the formula does not ask for.
    cos, sin = _numbers(rows, 2 * half, seed=1).cos(), _numbers(rows, 2 * half, seed=2).sin()
    weight = _numbers(2 * half, seed=3) if normed else None
    assert _agree(
        lambda x: Turn.apply(x, weight, EPS, cos, sin),
        lambda x: _rotated(x if weight is None else _norm(x, weight), cos, sin),
        _numbers(rows, heads, 2 * half),
    )


@given(rows=ROWS, width=WIDTHS, scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_swiglu(rows: int, width: int, scale: float) -> None:
    gate, up = _numbers(rows, width) * scale, _numbers(rows, width, seed=1)
    assert _agree(Swiglu.apply, lambda gate, up: F.silu(gate) * up, gate, up)


@pytest.mark.parametrize("value", [-1e4, -88.0, 88.0, 1e4, 3e38, -3e38])
def test_swiglu_of_large_numbers(value: float) -> None:
    gate, up = torch.tensor([value], requires_grad=True), torch.tensor([1.5], requires_grad=True)
    found = Swiglu.apply(gate, up)
    torch.testing.assert_close(found, F.silu(gate) * up, atol=1e-30, rtol=1e-5)
    for ours, wanted in zip(
        torch.autograd.grad(found, (gate, up)), torch.autograd.grad(F.silu(gate) * up, (gate, up)), strict=True
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-30, rtol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    clean, bad = _numbers(5, 24), _numbers(5, 24)
    bad[2, 3] = value
    cos, sin = _numbers(5, 8).cos(), _numbers(5, 8).sin()
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: AddNorm.apply(x, x, torch.ones(24), EPS)[1],
        lambda x: Turn.apply(x.view(5, 3, 8), torch.ones(8), EPS, cos, sin).view(5, 24),
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


def test_bits_do_not_follow_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = _numbers(37, 48).requires_grad_()
            y = Swiglu.apply(AddNorm.apply(x, x, torch.ones(48), EPS)[1], x)
            y = Turn.apply(y.view(37, 6, 8), torch.ones(8), EPS, torch.ones(37, 8), torch.ones(37, 8))
            found.append((y, torch.autograd.grad(y, x, torch.ones_like(y))[0]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


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
