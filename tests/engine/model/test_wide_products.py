"""Products into a wider dtype: exact sums of rounded factors, whatever the layout, with MKL and without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.threads import on_threads
from tinsmith.engine.model import wide_products
from tinsmith.engine.model.wide_products import add_wide_mm, find_kernel, wide_mm

# Tokens times weights, a single row, a single column, one summand, and an adapter's gradient.
SHAPES = [(7, 64, 320), (1, 256, 300), (40, 9, 1), (3, 1, 5), (32, 500, 48)]


def in_layout(x: Tensor, layout: str) -> Tensor:
    """The same numbers in other places."""
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "part of rows":
        return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]
    if layout == "every other row":
        return x.repeat_interleave(2, 0)[::2]
    if layout == "neither way":
        return torch.stack([x, x], 2)[:, :, 0]
    return x


@pytest.mark.parametrize("kernel", ["found", "none"])
@pytest.mark.parametrize("layout", ["", "transposed", "part of rows", "every other row", "neither way"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_not_rounded_to_the_factors_dtype(
    shape: tuple[int, int, int], layout: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "none":
        monkeypatch.setattr(wide_products, "_KERNEL", None)
    n, k, m = shape
    generator = torch.Generator().manual_seed(n)
    left, right = (torch.randn(size, generator=generator).bfloat16() for size in ((n, k), (k, m)))
    wanted = left.double() @ right.double()
    bound = 1e-6 * (left.double().abs() @ right.double().abs()) + 1e-30
    left, right = in_layout(left, layout), in_layout(right, layout)
    found = wide_mm(left, right, torch.float32)
    assert found.dtype == torch.float32
    assert ((found - wanted).abs() <= bound).all()
    out = torch.full((n, m + 2), torch.nan)[:, 1:-1]
    out.fill_(0.5)
    add_wide_mm(out, left, right)
    assert ((out - 0.5 - wanted).abs() <= bound + 1e-6).all()
    into = torch.full((n, m), torch.nan)
    assert wide_mm(left, right, torch.float32, into) is into
    assert torch.equal(into, found)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_follow_the_number_of_threads(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    left, right = torch.randn(n, k).bfloat16(), torch.randn(m, k).bfloat16().t()
    assert torch.equal(*on_threads((1, 2), lambda: wide_mm(left, right, torch.float32)))


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch is built without MKL here")
def test_mkl_is_found_where_torch_has_it() -> None:
    assert find_kernel() is not None


def test_without_the_function_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_products.ctypes, "CDLL", lambda _: object())
    assert find_kernel() is None


def test_a_function_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        """Writes nothing, as one that reads its sizes from other places would."""

    library = type("Library", (), {"cblas_gemm_bf16bf16f32": staticmethod(nothing)})
    monkeypatch.setattr(wide_products.ctypes, "CDLL", lambda _: library)
    assert find_kernel() is None
