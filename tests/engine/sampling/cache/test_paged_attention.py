"""Attention through the paged cache against plain attention over whole sequences, and the cache's storage."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.model.context import ForwardContext, Mode
from tinsmith.engine.sampling.cache import paged_attention
from tinsmith.engine.sampling.cache.kv_cache import KVCache, KVShape, affordable_blocks
from tinsmith.engine.sampling.cache.paged_attention import PagedPass, split_by_length
from tinsmith.settings import Settings

SIZE = 4
CPU = torch.device("cpu")


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of one sequence, [N, heads, dim], written out."""
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scaling
    scores += torch.full(scores.shape[1:], -torch.inf).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def context_of(tables: list[list[int]], starts: list[int], lengths: list[int], mode: Mode) -> ForwardContext:
    width = max(map(len, tables))
    positions = [torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
    cells = [torch.tensor(t)[p // SIZE] * SIZE + p % SIZE for t, p in zip(tables, positions, strict=True)]
    return ForwardContext(
        mode,
        torch.cat(positions),
        tuple(lengths),
        (),
        slot_mapping=torch.cat(cells),
        block_tables=torch.tensor([t + [0] * (width - len(t)) for t in tables], dtype=torch.int32),
    )


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("free_blocks", [128, 0])
def test_prefill_in_slices_and_decode_equal_plain_attention(
    heads: tuple[int, int], dtype: torch.dtype, free_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without free padding, sequences of different lengths are read in several parts.
    monkeypatch.setattr(paged_attention, "_FREE_BLOCKS", free_blocks)
    query_heads, kv_heads = heads
    generator = torch.Generator().manual_seed(1)
    totals = [1, 5, 8, 13, 22, 30, 9]
    streams = [
        [torch.randn(n, h, 8, generator=generator, dtype=dtype) for h in (query_heads, kv_heads, kv_heads)]
        for n in totals
    ]
    wanted = [plain(*s, scaling=0.3) for s in streams]
    cache = KVCache(KVShape(2, kv_heads, 8, dtype), SIZE, 200, CPU)
    # Blocks in no order, shared by nobody.
    free = torch.randperm(100, generator=generator).add(1).tolist()
    tables = [[free.pop() for _ in range(-(-n // SIZE))] for n in totals]
    cache.prepare([b for t in tables for b in t])
    done = [0] * len(totals)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    # Whole sequences, then several slices of different widths over what is cached, then one token each.
    for mode, takes in ((Mode.PREFILL, [1, 3, 8, 0, 7, 2, 0]), (Mode.PREFILL, [0, 1, 0, 12, 14, 5, 8]), *_decodes(25)):
        part = [i for i, n in enumerate(takes) if n and done[i] + n <= totals[i]]
        if not part or (mode is Mode.DECODE and not all(done[i] for i in part)):
            continue
        lengths = [takes[i] for i in part]
        starts = [done[i] for i in part]
        context = context_of([tables[i] for i in part], starts, lengths, mode)
        qkv = [torch.cat([streams[i][x][done[i] : done[i] + takes[i]] for i in part]) for x in range(3)]
        attention = PagedPass(cache, starts)
        for layer in range(2):
            # The second layer has other keys, so that mixing up layers shows.
            q, k, v = (x * (layer + 1) for x in qkv)
            out = attention.attend(layer, q, k, v, 0.3 / (layer + 1) ** 2, context)
            for i, got in zip(part, out.split(lengths), strict=True):
                expected = wanted[i][done[i] : done[i] + takes[i]] * (layer + 1)
                torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
        for i in part:
            done[i] += takes[i]
    assert done == totals


def _decodes(steps: int) -> list[tuple[Mode, list[int]]]:
    return [(Mode.DECODE, [1] * 7)] * steps


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_padding_is_bounded_however_lengths_differ(blocks: list[int]) -> None:
    parts = split_by_length(blocks)
    assert sorted(i for part in parts for i in part) == list(range(len(blocks)))
    assert all(part == sorted(part) for part in parts)
    for part in parts:
        own = [blocks[i] for i in part]
        assert max(own) * len(own) <= max(128, 1.5 * sum(own))


def test_few_parts_for_similar_lengths() -> None:
    assert split_by_length([9, 3, 7, 5] * 16) == [list(range(64))]
    assert split_by_length([2000] + [4] * 63) == [[0], list(range(1, 64))]


def test_plain_attention_is_the_known_one() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(6, 2, 8, generator=generator) for _ in range(3))
    known = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), is_causal=True, scale=0.3)
    torch.testing.assert_close(plain(q, k, v, 0.3), known.transpose(0, 1))


def test_prepared_blocks_are_zero_and_copies_are_whole() -> None:
    cache = KVCache(KVShape(1, 1, 2, torch.float32), SIZE, 300, CPU)
    cache.prepare([1, 2])
    ones = torch.ones(SIZE, 1, 2)
    cache.store(0, torch.arange(SIZE, 2 * SIZE), ones * float("nan"), ones)
    cache.prepare([1])
    cache.store(0, torch.arange(2 * SIZE, 3 * SIZE), ones, ones * 2)
    cache.copy([(2, 250), (1, 3)])
    keys, values = cache.gather(0, torch.tensor([[1, 2, 250, 3, 0]]))
    assert keys[0, :, 0, 0].tolist() == [0.0] * 4 + [1.0] * 8 + [0.0] * 8
    assert values[0, :, 0, 0].tolist() == [0.0] * 4 + [2.0] * 8 + [0.0] * 8


def test_size_follows_the_settings() -> None:
    shape = KVShape(layers=3, kv_heads=2, head_dim=8, dtype=torch.float32)
    assert shape.block_bytes(16) == 3 * 2 * 16 * 2 * 8 * 4
    assert affordable_blocks(shape, CPU, Settings(kv_cache_mb=3)) == 3 * 2**20 // shape.block_bytes(16)
    assert affordable_blocks(shape, CPU, Settings()) == 1024 * 2**20 // shape.block_bytes(16)
    huge = KVShape(layers=100, kv_heads=64, head_dim=256, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"kv_cache_mb: got 1 MiB, expected at least 200, one block"):
        affordable_blocks(huge, CPU, Settings(kv_cache_mb=1))
