"""Attention in C against attention over padded batches in float64, and what sequences are to each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.examples import examples
from tests.support.threads import on_threads
from tinsmith.engine.model import attention as padded
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.training import attention
from tinsmith.engine.model.native.training.attention import packed_attention
from tinsmith.engine.model.native.training.layer_functions import run_here
from tinsmith.engine.model.padded import NO_HEAD, Head, PaddedLayout

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler")

CPU = torch.device("cpu")
# Query heads and key heads.
HEADS = ((1, 1), (4, 2), (6, 2), (3, 3))
# Distance from float64 of the same inputs, of the norm of what is compared and of that of the gradient that comes in.
# In bfloat16 powers, the mixture and each gradient are rounded, by 2^-9 at most.
BOUNDS = {torch.float32: (3e-6, 1e-6), torch.bfloat16: (1e-2, 4e-3)}
of_each_dtype = pytest.mark.parametrize("dtype", [d for d in BOUNDS if run_here(torch.empty(0, dtype=d))])


def numbers(*size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def stream(tokens: int, heads: tuple[int, int], d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys, values, and the gradient of what comes out."""
    return [numbers(tokens, n, d, seed=i).to(dtype) for i, n in enumerate((heads[0], heads[1], heads[1], heads[0]))]


def in_c(x: list[Tensor], lengths: list[int], heads: list[Head], scaling: float) -> list[Tensor]:
    """The mixture, and the gradients of queries, keys and values."""
    leaves = [each.clone().requires_grad_() for each in x[:3]]
    out = packed_attention(leaves[0], leaves[1], leaves[2], lengths, heads, scaling)
    return [out.detach(), *torch.autograd.grad(out, leaves, x[3])]


def in_float64(x: list[Tensor], lengths: list[int], heads: list[Head], scaling: float) -> list[Tensor]:
    leaves = [each.double().requires_grad_() for each in x[:3]]
    layout = PaddedLayout.of(lengths, CPU, heads)
    out = padded.packed_attention(leaves[0], leaves[1], leaves[2], layout, scaling)
    return [out.detach(), *torch.autograd.grad(out, leaves, x[3].double())]


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[int], list[Head]]:
    """Lengths, empty ones too, and which of them begin with tokens of another."""
    lengths = draw(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 70)), min_size=1, max_size=7))
    if not any(lengths):
        lengths[0] = 1
    heads = [NO_HEAD] * len(lengths)
    lender = draw(st.integers(0, len(lengths) - 1))
    if lengths[lender]:
        for i in range(len(lengths)):
            # Behind its lender or before it: who packs rows puts it behind.
            if i != lender and lengths[i] and draw(st.booleans()):
                heads[i] = Head(lender, draw(st.integers(1, lengths[lender])))
    return lengths, heads


@pytest.mark.row(206)
@of_each_dtype
@examples(150)
@given(
    st.data(),
    st.sampled_from(HEADS),
    st.sampled_from([1, 6, 8, 16, 20, 32, 64, 80, 128]),
    st.sampled_from([0.1, 1.0]),
)
def test_it_is_that_of_padded_batches(
    dtype: torch.dtype, data: st.DataObject, heads: tuple[int, int], d: int, scaling: float
) -> None:
    lengths, shared = data.draw(sequences())
    x, (relative, least) = stream(sum(lengths), heads, d, dtype), BOUNDS[dtype]
    for ours, wanted in zip(in_c(x, lengths, shared, scaling), in_float64(x, lengths, shared, scaling), strict=True):
        # Of a token that sees itself alone, queries and keys have a gradient of zero, but for rounding.
        assert (ours - wanted).norm() <= relative * wanted.norm() + least * x[3].double().norm()


# The last one needs more memory than a thread keeps.
@of_each_dtype
@pytest.mark.parametrize("length", [257, 1000, 3000])
def test_long_sequences(dtype: torch.dtype, length: int) -> None:
    x = stream(length, (2, 1), 64, dtype)
    for ours, wanted in zip(in_c(x, [length], [], 0.125), in_float64(x, [length], [NO_HEAD], 0.125), strict=True):
        assert (ours - wanted).norm() <= BOUNDS[dtype][0] * wanted.norm()


@pytest.mark.skipif(not run_here(torch.empty(0, dtype=torch.bfloat16)), reason="this processor has no bfloat16")
@pytest.mark.parametrize("length", [40, 700])
def test_bfloat16_is_rounded_as_in_torchs_kernel(length: int) -> None:
    # Which samples, and computes prompts: what differs is a sum now and then that is about to be rounded either way.
    x = stream(length, (4, 2), 64, torch.bfloat16)
    wanted = padded.packed_attention(x[0], x[1], x[2], PaddedLayout.of([length], CPU, [NO_HEAD]), 0.125)
    found = in_c(x, [length], [], 0.125)[0]
    assert (found != wanted).float().mean() < 1e-2


@pytest.mark.skipif(not run_here(torch.empty(0, dtype=torch.bfloat16)), reason="this processor has no bfloat16")
def test_what_many_sequences_add_to_a_shared_prompt_is_rounded_once() -> None:
    count, prompt, answer = 200, 6, 3
    lengths, heads = [prompt] + [answer] * count, [NO_HEAD] + [Head(0, prompt)] * count
    x = stream(sum(lengths), (2, 1), 16, torch.bfloat16)
    for ours, wanted in zip(in_c(x, lengths, heads, 0.25), in_float64(x, lengths, heads, 0.25), strict=True):
        error = (ours[:prompt] - wanted[:prompt]).norm()
        # 200 roundings of a sum that grows would come to some twenty times this.
        assert error <= 3e-3 * wanted[:prompt].norm()


@pytest.mark.row(207)
@of_each_dtype
def test_bits_follow_neither_neighbours_nor_threads(dtype: torch.dtype) -> None:
    lengths = [7, 40, 25, 25, 31, 90, 3]
    heads = [NO_HEAD, NO_HEAD, Head(1, 17), Head(1, 33), NO_HEAD, NO_HEAD, NO_HEAD]
    x = stream(sum(lengths), (4, 2), 32, dtype)
    together = in_c(x, lengths, heads, 0.2)
    for found in on_threads((1, 2, 3), lambda: in_c(x, lengths, heads, 0.2)):
        assert all(map(torch.equal, found, together))
    own = [each[7 : 7 + 90] for each in x]
    alone = in_c(own, [40, 25, 25], [NO_HEAD, Head(0, 17), Head(0, 33)], 0.2)
    assert all(torch.equal(one, other[7 : 7 + 90]) for one, other in zip(alone, together, strict=True))


@pytest.mark.row(207)
@of_each_dtype
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_numbers_that_are_not_finite_stay_in_their_sequence(dtype: torch.dtype, bad: float, which: int) -> None:
    lengths = [20, 30, 9]
    x = stream(sum(lengths), (4, 2), 16, dtype)
    before = in_c(x, lengths, [], 0.3)
    x[which][20 + 11] = bad
    after = in_c(x, lengths, [], 0.3)
    others = [*range(20), *range(50, 59)]
    assert all(torch.equal(one[others], other[others]) for one, other in zip(after, before, strict=True))
    assert not all(bool(each[20:50].isfinite().all()) for each in after)


@of_each_dtype
def test_no_token_sees_what_comes_after_it(dtype: torch.dtype) -> None:
    x = stream(60, (4, 2), 32, dtype)
    before = in_c(x, [60], [], 0.3)[0]
    for each in x[1:3]:
        each[41:] = numbers(19, 2, 32, seed=9) * 100
    after = in_c(x, [60], [], 0.3)[0]
    assert torch.equal(after[:41], before[:41])
    assert not torch.equal(after[41:], before[41:])


def test_large_scores_lose_nothing() -> None:
    x = stream(50, (2, 2), 16)
    x[1] *= 1e3
    for ours, wanted in zip(in_c(x, [50], [], 1.0), in_float64(x, [50], [NO_HEAD], 1.0), strict=True):
        # Rounding moves scores of thousands by as much as a ten-thousandth.
        assert (ours - wanted).norm() <= 2e-3 * wanted.norm()


def test_want_of_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = stream(5, (1, 1), 8)
    leaf = x[0].requires_grad_()
    out = packed_attention(leaf, x[1], x[2], [5], [], 1.0)
    monkeypatch.setattr(attention, "_functions", lambda _: (lambda *_: 0, lambda *_: 0))
    with pytest.raises(MemoryError, match=r"no memory for the attention of 5 tokens"):
        packed_attention(leaf, x[1], x[2], [5], [], 1.0)
    with pytest.raises(MemoryError, match=r"no memory for the attention of 5 tokens"):
        out.backward(x[3])
