"""Products of bfloat16 in tiles: rounded as torch's operations are, alone or among neighbours, and honest about NaN."""

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
from tinsmith.engine.model.native.training.products.half_products import HalfProducts
from tinsmith.engine.model.tiles.products import WHOLE, Addition, Outer

_FAST = fast_products(torch.device("cpu"), torch.bfloat16)
needs_tiles = pytest.mark.skipif(not isinstance(_FAST, HalfProducts), reason="no compiler, or no tiles of bfloat16")
LAYOUTS = ["", "transposed", "part of rows", "every other row", "neither way"]
# Half the distance of neighbouring numbers of bfloat16, and what a sum of float32 is off beside its terms.
ROUNDING, SUM = 2**-8, 1e-6


def _numbers(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _additions(k: int, m: int, spans: list[tuple[int, int, int]], backward: bool = False) -> list[Addition]:
    """Adapters of so many ranks on spans of the rows, their factors as a layer's forward or backward pass has them."""
    found: list[Addition] = []
    for i, (low, high, rank) in enumerate(spans):
        down, up = _numbers(rank, k, seed=i).t(), _numbers(m, rank, seed=9 + i).t()
        if backward:
            down, up = down.contiguous(), up.contiguous()
        found.append(Addition(low, high, down, up, 0.7 + i))
    return found


def _rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


@needs_tiles
@given(
    n=st.integers(1, 300),
    k=st.integers(1, 2100),
    m=st.integers(1, 400),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    rank=st.integers(1, 130),
    cut=st.floats(0, 1),
    has_bias=st.booleans(),
    backward=st.booleans(),
    wide=st.booleans(),
)
def test_products_and_adapters_are_sums_of_float32_rounded_where_torch_rounds(
    n: int,
    k: int,
    m: int,
    layouts: tuple[str, str],
    rank: int,
    cut: float,
    has_bias: bool,
    backward: bool,
    wide: bool,
) -> None:
    x, weight, bias = _numbers(n, k), _numbers(k, m, seed=1), _numbers(m, seed=2) if has_bias else None
    middle = round(n * cut)
    additions = _additions(k, m, [(0, middle, rank), (middle, n, 8)], backward)
    out = torch.full((n, m + 2), torch.nan, dtype=torch.float32 if wide else torch.bfloat16)[:, 1:-1]
    found = _FAST.mm_with(in_layout(x, layouts[0]), in_layout(weight, layouts[1]), bias, additions, out)
    assert found is not None
    assert found[0] is out
    exact, terms = x.double() @ weight.double(), x.double().abs() @ weight.double().abs()
    if bias is not None:
        exact += bias.double()
    bound = SUM * terms
    if not wide:
        bound += ROUNDING * exact.abs()
    for a, h in zip(additions, found[1], strict=True):
        rows = slice(a.start, a.end)
        down, up = a.down.double(), a.up.double()
        once = x[rows].double() @ down
        size = x[rows].double().abs() @ down.abs()
        assert ((h - once * a.scale).abs() <= (2 * ROUNDING * once.abs() + 2 * SUM * size) * a.scale + 1e-30).all()
        exact[rows] += h.double() @ up
        bound[rows] += SUM * (h.double().abs() @ up.abs())
    if not wide:
        bound += ROUNDING * exact.abs()
    assert ((out - exact).abs() <= bound + 1e-30).all()


@needs_tiles
@pytest.mark.parametrize("shape", [(96, 256, 128), (70, 100, 90), (33, 3000, 64)])
@pytest.mark.parametrize("backward", [False, True])
def test_nearly_all_bits_are_those_of_torchs_operations(shape: tuple[int, int, int], backward: bool) -> None:
    n, k, m = shape
    x, weight = _numbers(n, k), _numbers(k, m, seed=1)
    additions = _additions(k, m, [(0, 20, 8), (20, 33, 32)], backward)
    found = _FAST.mm_with(x, weight, None, additions)
    assert found is not None
    wanted = x @ weight
    for a in additions:
        h = (x[a.start : a.end] @ a.down).mul_(a.scale)
        wanted[a.start : a.end].addmm_(h, a.up)
    assert (found[0] != wanted).float().mean() < 1e-3


@needs_tiles
@pytest.mark.parametrize("backward", [False, True])
def test_a_row_has_the_same_bits_among_any_neighbours(backward: bool) -> None:
    x, weight = _numbers(333, 700), _numbers(700, 90, seed=1)
    additions = _additions(700, 90, [(0, 45, 16), (45, 46, 8), (100, 333, 32)], backward)
    whole = _FAST.mm_with(x, weight, None, additions)
    assert whole is not None
    for i, (low, high) in enumerate([(0, 45), (45, 46), (100, 333)]):
        alone = _FAST.mm_with(x[low:high], weight, None, [additions[i]._replace(start=0, end=high - low)])
        assert alone is not None
        assert torch.equal(alone[0], whole[0][low:high])
        assert torch.equal(alone[1][0], whole[1][i])
    base = _FAST.mm_with(x[46:100], weight, None, [])
    assert base is not None
    assert torch.equal(base[0], whole[0][46:100])


@needs_tiles
@pytest.mark.parametrize("shape", [(400, 70), (40, 300)])
@pytest.mark.parametrize("spans", [[], [(0, 11, 32), (11, 40, 16)]])
def test_bits_do_not_follow_the_number_of_threads(shape: tuple[int, int], spans: list[tuple[int, int, int]]) -> None:
    x, weight = _numbers(shape[0], 130), _numbers(130, shape[1], seed=1)
    additions = _additions(130, shape[1], spans)

    def run() -> list[Tensor]:
        found = _FAST.mm_with(x, weight, _numbers(shape[1], seed=3), additions)
        assert found is not None
        gradient = torch.zeros(shape[1], 130)
        _FAST.add_outer([Outer(gradient, found[0], x)])
        return [found[0], *found[1], gradient]

    first, *others = on_threads((1, 2, 3), run)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other, first, strict=True))


@needs_tiles
@given(
    terms=st.integers(1, 600),
    rank=st.integers(1, 70),
    width=st.integers(1, 1100),
    turned=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    parts=st.integers(1, 3),
)
def test_gradients_of_factors_are_added(
    terms: int, rank: int, width: int, turned: bool, layout: str, parts: int
) -> None:
    sums: list[Outer] = []
    wanted: list[tuple[Tensor, Tensor]] = []
    for part in range(parts):
        narrow, wide = _numbers(terms, rank, seed=part), _numbers(terms, width, seed=5 + part)
        left, right = (wide, narrow) if turned else (narrow, wide)
        # Part of a longer vector, as an adapter's gradients are.
        out = torch.full((left.shape[1] * right.shape[1] + 3,), 0.5)[3:].view(left.shape[1], right.shape[1])
        sums.append(Outer(out, in_layout(left, layout), in_layout(right, layout)))
        wanted.append((left.double().t() @ right.double(), left.double().abs().t() @ right.double().abs()))
    _FAST.add_outer(sums)
    for o, (exact, size) in zip(sums, wanted, strict=True):
        assert ((o.out - exact - 0.5).abs() <= SUM * (size + 1)).all()


@needs_tiles
def test_nothing_beside_a_gradient_is_written() -> None:
    whole = torch.zeros(40, 90)
    _FAST.add_outer([Outer(whole[3:8, 5:75], _numbers(50, 5), _numbers(50, 70, seed=1))])
    assert whole[3:8, 5:75].all()
    whole[3:8, 5:75] = 0
    assert not whole.any()


@needs_tiles
@pytest.mark.parametrize("place", ["row", "down", "up"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_reaches_no_neighbour(place: str, poison: float) -> None:
    x, weight = _numbers(90, 100), _numbers(100, 80, seed=1)
    additions = _additions(100, 80, [(0, 30, 8), (30, 70, 8)])
    clean = _FAST.mm_with(x, weight, None, additions)
    assert clean is not None
    {"row": x[33], "down": additions[1].down[3], "up": additions[1].up[3]}[place][5] = poison
    found = _FAST.mm_with(x, weight, None, additions)
    assert found is not None
    for rows in (slice(0, 30), slice(70, 90)):
        assert torch.equal(found[0][rows], clean[0][rows])
    # In float32: torch's product of bfloat16 lets NaN into a row beside its own.
    a, own = additions[1], x[30:70].float()
    h = own @ a.down.float()
    wanted = own @ weight.float() + h @ a.up.float()
    assert torch.equal(found[1][1].isfinite(), h.isfinite())
    assert torch.equal(found[0][30:70].isfinite(), wanted.isfinite())


@needs_tiles
def test_what_tiles_do_not_gain_is_left_to_torch() -> None:
    assert _FAST.mm_with(_numbers(3, 5000), _numbers(5000, 8), None, []) is None
    assert _FAST.mm_with(torch.ones(3, 5), torch.ones(5, 8), None, []) is None


def test_only_bfloat16_on_a_cpu_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_products(torch.device("cpu"), torch.float64) is WHOLE
    assert fast_products(torch.device("cpu"), torch.float16) is WHOLE
    assert fast_products(torch.device("meta"), torch.bfloat16) is WHOLE
    monkeypatch.setattr(fast_products_module, "half_products", lambda: None)
    assert fast_products(torch.device("cpu"), torch.bfloat16) is WHOLE
