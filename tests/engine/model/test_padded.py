"""Sequences of any lengths in a few padded batches, and that neighbours have no say in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.padded import PaddedLayout, pad_groups, unpad_groups, width_of

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=12).filter(any)


@given(LENGTHS)
def test_what_is_padded_comes_back_and_the_rest_is_zero(lengths: list[int]) -> None:
    layout = PaddedLayout.of(lengths, CPU)
    stream = torch.arange(1.0, sum(lengths) + 1)[:, None]
    padded = pad_groups(stream, layout)
    assert torch.equal(unpad_groups(padded, layout), stream)
    assert sum(int((batch != 0).sum()) for batch in padded) == sum(lengths)
    assert all(len(batch) == group.count * group.width for batch, group in zip(padded, layout.groups, strict=True))


@pytest.mark.row(207)
@given(LENGTHS)
def test_a_width_follows_from_the_length_alone(lengths: list[int]) -> None:
    for group in PaddedLayout.of(lengths, CPU).groups:
        assert {width_of(lengths[i]) for i in group.members} == {group.width}


@given(st.integers(1, 100_000))
def test_a_width_holds_its_sequence_with_little_to_spare(length: int) -> None:
    width = width_of(length)
    assert length <= width
    assert width_of(width) == width
    assert width <= 64 or width - length <= width / 5


@pytest.mark.row(207)
@examples(30)
@given(st.integers(1, 150), st.lists(st.integers(1, 200), max_size=6), st.integers(0, 6))
def test_attention_of_a_sequence_is_the_same_in_any_company(mine: int, others: list[int], place: int) -> None:
    lengths = [*others[:place], mine, *others[place:]]
    start = sum(lengths[: min(place, len(others))])
    generator = torch.Generator().manual_seed(mine)
    query, key, value = (torch.randn(sum(lengths), heads, 8, generator=generator) for heads in (4, 2, 2))
    together = packed_attention(query, key, value, PaddedLayout.of(lengths, CPU), 0.3)[start : start + mine]
    own = (x[start : start + mine] for x in (query, key, value))
    alone = packed_attention(*own, PaddedLayout.of([mine], CPU), 0.3)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@examples(40)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=4))
def test_sequences_that_share_a_head_are_those_that_repeat_it(pairs: list[tuple[int, int, int]]) -> None:
    generator = torch.Generator().manual_seed(len(pairs))
    lengths, heads, repeated, places = [], [], [], []
    for head, first, second in pairs:
        start = sum(lengths)
        lengths += [head + first, second]
        heads += [0, head]
        repeated += [head + first, head + second]
        places += [*range(start, start + head + first), *range(start, start + head)]
        places += range(start + head + first, start + head + first + second)
    own = torch.cat([torch.arange(n) >= h for n, h in zip(repeated, heads, strict=True)])
    stream = [
        torch.randn(sum(lengths), count, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (4, 2, 2)
    ]
    shared = packed_attention(*stream, PaddedLayout.of(lengths, CPU, heads), 0.3)
    whole = packed_attention(*(x[places] for x in stream), PaddedLayout.of(repeated, CPU), 0.3)[own]
    torch.testing.assert_close(shared, whole, rtol=0, atol=0)
    upstream = torch.randn(shared.shape, generator=generator, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(out, stream, upstream) for out in (shared, whole))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
