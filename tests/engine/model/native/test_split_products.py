"""Products of float32 in tiles of bfloat16: exact as float32, alone or among neighbours, and honest about NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.model.test_wide_products import in_layout
from tests.support.threads import on_threads
from tinsmith.engine.model.native.training.products import fast_products as fast_products_module
from tinsmith.engine.model.native.training.products.fast_products import fast_products
from tinsmith.engine.model.native.training.products.split_products import SplitProducts
from tinsmith.engine.model.tiles.products import WHOLE, Addition

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
    found = on_threads((1, 2, 3), lambda: _FAST.mm(left, right))
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


def _additions(rows: int, k: int, m: int, spans: list[tuple[int, int, int]]) -> list[Addition]:
    """Adapters of so many ranks on spans of the rows, their factors as a layer's forward pass has them."""
    return [
        Addition(low, high, _numbers(rank, k, seed=i).t(), _numbers(m, rank, seed=9 + i).t(), 0.5 + i)
        for i, (low, high, rank) in enumerate(spans)
    ]


@needs_tiles
@given(
    n=st.integers(40, 300),
    k=st.integers(64, 2100),
    m=st.integers(64, 1200),
    rank=st.integers(1, 64),
    cut=st.integers(1, 39),
    backward=st.booleans(),
)
def test_adapters_are_added_on_the_way(n: int, k: int, m: int, rank: int, cut: int, backward: bool) -> None:
    x, weight = _numbers(n, k), _numbers(k, m, seed=1, exact=True)
    additions = _additions(n, k, m, [(0, cut, rank), (cut, cut + 1, 8), (n - 3, n, 32)])
    if backward:
        # Factors that lie the other way, as those of an input's gradient do.
        additions = [a._replace(down=a.down.contiguous(), up=a.up.contiguous()) for a in additions]
    found = _FAST.mm_with(x, weight, None, additions)
    assert found is not None
    wanted = x.double() @ weight.double()
    for a, hidden in zip(additions, found[1], strict=True):
        h = x[a.start : a.end].double() @ a.down.double() * a.scale
        assert (hidden - h).norm() <= 4e-7 * h.norm()
        wanted[a.start : a.end] += h @ a.up.double()
    assert (found[0] - wanted).norm() <= 6e-7 * wanted.norm()
    # Whoever the neighbours are.
    a = additions[0]
    alone = _FAST.mm_with(x[:cut], weight, None, [a])
    assert alone is not None
    assert torch.equal(alone[0], found[0][:cut])
    assert torch.equal(alone[1][0], found[1][0])


@needs_tiles
def test_adapters_bits_do_not_follow_the_number_of_threads() -> None:
    x, weight = _numbers(333, 200), _numbers(200, 500, seed=1)
    additions = _additions(333, 200, 500, [(0, 100, 32), (100, 250, 16)])
    found = on_threads((1, 2, 3), lambda: _FAST.mm_with(x, weight, None, additions))
    assert found[0] is not None
    for other in found[1:]:
        assert other is not None
        assert torch.equal(other[0], found[0][0])
        assert all(torch.equal(a, b) for a, b in zip(other[1], found[0][1], strict=True))


@needs_tiles
@pytest.mark.parametrize("place", ["row", "down", "up"])
def test_an_adapter_that_is_not_finite_reaches_no_neighbour(place: str) -> None:
    x, weight = _numbers(90, 100), _numbers(100, 80, seed=1)
    additions = _additions(90, 100, 80, [(0, 30, 8), (30, 70, 8)])
    clean = _FAST.mm_with(x, weight, None, additions)
    assert clean is not None
    {"row": x[33], "down": additions[1].down[3], "up": additions[1].up[3]}[place][5] = torch.nan
    found = _FAST.mm_with(x, weight, None, additions)
    assert found is not None
    for rows in (slice(0, 30), slice(70, 90)):
        assert torch.equal(found[0][rows], clean[0][rows])
    a = additions[1]
    h = x[30:70] @ a.down * a.scale
    torch.testing.assert_close(found[1][1], h, equal_nan=True, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[0][30:70], x[30:70] @ weight + h @ a.up, equal_nan=True, rtol=1e-5, atol=1e-3)


@needs_tiles
def test_large_ranks_and_narrow_weights_are_added_apart() -> None:
    x = _numbers(40, 100)
    assert _FAST.mm_with(x, _numbers(100, 80), None, _additions(40, 100, 80, [(0, 40, 65)])) is None
    assert _FAST.mm_with(x, _numbers(100, 32), None, _additions(40, 100, 32, [(0, 40, 8)])) is None


def test_only_float32_on_a_cpu_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_products(torch.device("cpu"), torch.float64) is WHOLE
    assert fast_products(torch.device("meta"), torch.float32) is WHOLE
    monkeypatch.setattr(fast_products_module, "split_products", lambda: None)
    assert fast_products(torch.device("cpu"), torch.float32) is WHOLE
