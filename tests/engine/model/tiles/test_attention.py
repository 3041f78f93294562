"""Attention in tiles: the numbers of plain attention, and bits that follow from a query's own keys alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.examples import examples
from tinsmith.engine.model.padded import PaddedLayout, width_of
from tinsmith.engine.model.tiles.attention import attend_to_cached, tiled_attention

HEADS, KEY_HEADS, DIM = 4, 2, 16


def draw(tokens: int, heads: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(tokens, heads, DIM, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def in_group(tensors: list[Tensor], length: int, count: int) -> tuple[Tensor, ...]:
    """Sequences [length, heads, D] each, padded to their width: [count * width, heads, D]."""
    width = width_of(length)
    return tuple(torch.cat([F.pad(x, (0, 0, 0, 0, 0, width - length))] * count) for x in tensors)


@pytest.mark.parametrize("length", [1, 16, 17, 63, 64, 65, 130])
def test_numbers_and_gradients_are_those_of_plain_attention(length: int) -> None:
    q, k, v = (draw(length, heads, seed).requires_grad_() for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS)))
    (group,) = PaddedLayout.of([length], torch.device("cpu")).groups
    found = tiled_attention(group, *in_group([q, k, v], length, 1), 0.3)[:length]
    plain = F.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=True, scale=0.3, enable_gqa=True
    )[0].transpose(0, 1)
    assert torch.allclose(found, plain, rtol=0, atol=1e-12)
    wanted = draw(length, HEADS, 9)
    ours = torch.autograd.grad((found * wanted).sum(), (q, k, v))
    theirs = torch.autograd.grad((plain * wanted).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@examples(40)
@given(
    length=st.integers(1, 200),
    start=st.integers(0, 199),
    others=st.lists(st.integers(0, 199), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_query_has_the_same_bits_in_training_in_any_prefill_and_in_decoding(
    length: int, start: int, others: list[int], dtype: torch.dtype
) -> None:
    start %= length
    q, k, v = (draw(length, heads, seed, dtype) for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS)))
    (group,) = PaddedLayout.of([length, length], torch.device("cpu")).groups
    whole = tiled_attention(group, *in_group([q, k, v], length, 2), 0.3)[:length]
    # A prefill from `start` on, over a cache that holds something behind the end.
    cached = [torch.cat([x, draw(7, KEY_HEADS, 5, dtype)])[None] for x in (k, v)]
    assert torch.equal(attend_to_cached(q[None, start:], *cached, [start], 0.3)[0], whole[start:])
    # The last token decoded, between sequences that are shorter or longer.
    starts = [*others, length - 1]
    longest = max(starts) + 1
    queries = torch.cat([*(draw(1, HEADS, 20 + i, dtype) for i in range(len(others))), q[-1:]])[:, None]
    keys, values = (
        torch.stack([*(draw(longest, KEY_HEADS, 30 + i, dtype) for i in range(len(others))), own])
        for own in (F.pad(x, (0, 0, 0, 0, 0, longest - length)) for x in (k, v))
    )
    assert torch.equal(attend_to_cached(queries, keys, values, starts, 0.3)[-1, 0], whole[-1])
