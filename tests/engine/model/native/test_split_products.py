"""Products of float32 in tiles of bfloat16: exact as float32, alone or among neighbours, and honest about NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.model.test_wide_products import in_layout
from tinsmith.engine.model.native import split_products
from tinsmith.engine.model.native.split_products import SplitProducts, fast_products
from tinsmith.engine.model.tiles.products import WHOLE

_FAST = fast_products(torch.device("cpu"), torch.float32)
needs_tiles = pytest.mark.skipif(not isinstance(_FAST, SplitProducts), reason="no compiler, or no tiles")
LAYOUTS = ["", "transposed", "part of rows", "every other row", "neither way"]


def _numbers(*size: int, seed: int = 0, exact: bool = False) -> Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return x.bfloat16().float() if exact else x


@needs_tiles
@given(
    n=st.integers(1, 300),
    k=st.integers(64, 2100),
    m=st.integers(64, 200),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    exact=st.booleans(),
    add=st.booleans(),
)
def test_a_product_is_as_exact_as_float32(
    n: int, k: int, m: int, layouts: tuple[str, str], exact: bool, add: bool
) -> None:
    left, right = _numbers(n, k), _numbers(k, m, seed=1, exact=exact)
    wanted = left.double() @ right.double()
    size = left.double().abs() @ right.double().abs()
    left, right = in_layout(left, layouts[0]), in_layout(right, layouts[1])
    if add:
        found = torch.full((n, m + 2), torch.nan)[:, 1:-1]
        found.fill_(0.5)
        _FAST.add_mm(found, left, right)
        wanted = wanted + 0.5
    else:
        found = _FAST.mm(left, right)
    assert ((found - wanted).abs() <= 3e-7 * (size + 0.5)).all()
    # torch's own product of float32 is 3e-7 off at most such depths.
    assert (found - wanted).norm() <= 4e-7 * wanted.norm()


@needs_tiles
def test_wide_and_narrow_numbers_keep_their_digits() -> None:
    scales = torch.logspace(-25, 12, 96)
    left, right = _numbers(50, 96) * scales, _numbers(96, 70, seed=1) / scales[:, None]
    wanted = left.double() @ right.double()
    assert ((_FAST.mm(left, right) - wanted).abs() <= 3e-7 * (left.double().abs() @ right.double().abs())).all()


@needs_tiles
@pytest.mark.parametrize("exact", [True, False])
def test_a_row_has_the_same_bits_among_any_neighbours(exact: bool) -> None:
    left, right = _numbers(333, 700), _numbers(700, 90, seed=1, exact=exact)
    whole = _FAST.mm(left, right)
    for low, high in [(0, 1), (3, 40), (200, 333)]:
        assert torch.equal(_FAST.mm(left[low:high], right), whole[low:high])


@needs_tiles
@pytest.mark.parametrize("shape", [(400, 70), (40, 300)])
def test_bits_do_not_follow_the_number_of_threads(shape: tuple[int, int]) -> None:
    left, right = _numbers(shape[0], 130), _numbers(130, shape[1], seed=1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(_FAST.mm(left, right))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_tiles
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3.4e38])
@pytest.mark.parametrize("add", [True, False])
def test_what_is_not_finite_stays_in_its_row(value: float, add: bool) -> None:
    left, right = _numbers(50, 100), _numbers(100, 80, seed=1, exact=True)
    clean = _FAST.mm(left, right)
    left[7, 3] = value
    found = torch.zeros(50, 80)
    if add:
        _FAST.add_mm(found, left, right)
    else:
        _FAST.mm(left, right, found)
    assert torch.equal(found[:7], clean[:7])
    assert torch.equal(found[8:], clean[8:])
    torch.testing.assert_close(found[7], left[7] @ right, equal_nan=True)


@needs_tiles
def test_a_weight_that_is_not_finite_shows_in_its_outputs() -> None:
    left, right = _numbers(50, 100), _numbers(100, 80, seed=1)
    clean = _FAST.mm(left, right)
    right[3, 7] = torch.inf
    found = _FAST.mm(left, right)
    assert found[:, 7].isinf().all()
    assert torch.equal(found[:, :7], clean[:, :7])


def test_only_float32_on_a_cpu_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_products(torch.device("cpu"), torch.float64) is WHOLE
    assert fast_products(torch.device("cpu"), torch.bfloat16) is WHOLE
    assert fast_products(torch.device("meta"), torch.float32) is WHOLE
    monkeypatch.setattr(split_products, "_split_products", lambda: None)
    assert fast_products(torch.device("cpu"), torch.float32) is WHOLE
