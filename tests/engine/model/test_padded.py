"""Sequences of any lengths in a few padded batches, and that neighbours have no say in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.padded import NO_HEAD, Head, PaddedLayout, pad_groups, unpad_groups, width_of

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
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.lists(st.integers(1, 70), min_size=1, max_size=5)), min_size=1, max_size=4
    )
)
def test_sequences_that_share_a_head_are_those_that_repeat_it(families: list[tuple[int, list[int]]]) -> None:
    generator = torch.Generator().manual_seed(len(families))
    lengths: list[int] = []
    heads: list[Head] = []
    repeated: list[int] = []
    places: list[int] = []
    for head, (first, *others) in families:
        leader, start = len(lengths), sum(lengths)
        lengths.append(head + first)
        heads.append(NO_HEAD)
        repeated.append(head + first)
        places += range(start, start + head + first)
        for own in others:
            places += [*range(start, start + head), *range(sum(lengths), sum(lengths) + own)]
            lengths.append(own)
            heads.append(Head(leader, head))
            repeated.append(head + own)
    own = torch.cat([torch.arange(n) >= head.tokens for n, head in zip(repeated, heads, strict=True)])
    stream = [
        torch.randn(sum(lengths), count, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (4, 2, 2)
    ]
    shared = packed_attention(*stream, PaddedLayout.of(lengths, CPU, heads), 0.3)
    whole = packed_attention(*(x[places] for x in stream), PaddedLayout.of(repeated, CPU), 0.3)[own]
    torch.testing.assert_close(shared, whole, rtol=0, atol=0)
    upstream = torch.randn(shared.shape, generator=generator, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(out, stream, upstream, retain_graph=True) for out in (shared, whole))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    # In the same order every time, however many borrow a token.
    again = torch.autograd.grad(shared, stream, upstream)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@examples(30)
@given(st.integers(1, 90), st.lists(st.integers(1, 70), min_size=1, max_size=5), st.booleans())
def test_cells_of_padding_are_zero_and_those_of_a_shared_head_where_it_is_not_asked_for(
    head: int, others: list[int], heads: bool
) -> None:
    lengths = [head + 3, *others]
    layout = PaddedLayout.of(lengths, CPU, [NO_HEAD, *(Head(0, head) for _ in others)])
    stream = torch.arange(1.0, sum(lengths) + 1)[:, None]
    found: dict[int, list[float]] = {}
    for group, cells in zip(layout.groups, pad_groups(stream, layout, heads=heads), strict=True):
        found |= dict(zip(group.members, cells.view(group.count, group.width).tolist(), strict=True))
    first = stream[:, 0].tolist()
    assert found[0][: head + 3] == first[: head + 3]
    for member, own in enumerate(others, start=1):
        start = sum(lengths[:member])
        assert found[member][:head] == (first[:head] if heads else [0.0] * head)
        assert found[member][head : head + own] == first[start : start + own]
        assert not any(found[member][head + own :])
