"""Attention of new tokens to keys and values that lie in the paged cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.context import BlockStorage, ForwardContext, Mode
from tinsmith.engine.model.padded import pad_groups, unpad_groups
from tinsmith.engine.model.tiles.attention import attend_to_cached
from tinsmith.engine.sampling.cache.kv_cache import KVCache
from tinsmith.engine.sampling.decoding.decode_rows import DecodePass
from tinsmith.engine.transfers import to_device

# Sequences are read together while their padding stays below half of what they hold ...
_MAX_READ = 1.5
# ... or while so few blocks are read that one call more would cost more than the padding.
_FREE_BLOCKS = 128


class PagedPass:
    """One sampling pass over the cache; implements `context.PagedAttention`.

    Sequences that start at position 0 attend to themselves only, in the same way as in training. Others read their
    blocks back: queries are right-padded to the longest of a group, and a query sees the keys up to its own position.

    Args:
        cache: where keys and values are kept.
        starts: keys of each sequence that were in the cache before this pass.
        rows: the rows of a decoding pass; None where it gathers blocks.
    """

    def __init__(self, cache: KVCache, starts: Sequence[int], rows: DecodePass | None = None) -> None:
        self._cache = cache
        self._starts = starts
        self._rows = rows
        self._readers: list[list[_Reader]] | None = None

    @property
    def storage(self) -> BlockStorage:
        """The cache."""
        return self._cache.storage

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        """Store the new keys and values, then attend; shapes as in `context.PagedAttention`."""
        if context.slot_mapping is None or context.block_tables is None:
            raise ValueError("a paged pass needs slot_mapping and block_tables in its context")
        tiled = context.products.tile > 1
        # First, so that the new tokens find each other's keys in the cache like all the others. Rows behind them only
        # fill up a tile.
        tokens = context.slot_mapping.shape[0]
        self._cache.store(layer, context.slot_mapping, key[:tokens], value[:tokens])
        if self._rows is not None:
            return self._rows.attend(layer, query, key, value, scaling)
        if not any(self._starts):
            return packed_attention(query, key, value, context.layout, scaling, tiled=tiled)
        if tiled:
            return self._attend_in_tiles(layer, query, scaling, context, context.block_tables)
        # Masks and tables are the same in every layer: made by the first, read by the others.
        if self._readers is None:
            self._readers = self._make_readers(context, context.block_tables)
        if context.mode is Mode.DECODE:
            # One query each: [S, 1, heads, head dim], nothing to pad.
            return self._read(self._readers[0], layer, query[:, None], scaling).squeeze(1)
        layout = context.layout
        outs: list[Tensor] = []
        for group, readers, q in zip(layout.groups, self._readers, pad_groups(query, layout), strict=True):
            q = q.unflatten(0, (group.count, group.width))
            outs.append(self._read(readers, layer, q, scaling).flatten(0, 1))
        return unpad_groups(outs, layout)

    def _attend_in_tiles(
        self, layer: int, query: Tensor, scaling: float, context: ForwardContext, tables: Tensor
    ) -> Tensor:
        """Sequences of one query each are read together where that costs little, others one by one."""
        out = torch.zeros_like(query)
        lengths = context.lengths[: len(self._starts)]
        blocks = [-(-(s + n) // self._cache.block_size) for s, n in zip(self._starts, lengths, strict=True)]
        parts = split_by_length(blocks) if context.mode is Mode.DECODE else [[i] for i in range(len(blocks))]
        first = [0, *accumulate(lengths)]
        for part in parts:
            index = to_device(part, query.device)
            rows = torch.cat([torch.arange(first[i], first[i + 1], device=query.device) for i in part])
            keys, values = self._cache.gather(layer, tables[index, : max(blocks[i] for i in part)])
            q = query[rows].unflatten(0, (len(part), -1))
            found = attend_to_cached(q, keys, values, [self._starts[i] for i in part], scaling)
            out.index_copy_(0, rows, found.flatten(0, 1))
        return out

    def _make_readers(self, context: ForwardContext, tables: Tensor) -> list[list[_Reader]]:
        """Readers of each group of the padded layout; of a decoding pass, which needs no padding, one group of all."""
        if context.mode is Mode.DECODE:
            groups = [(range(len(self._starts)), 1)]
        else:
            groups = [(group.members, group.width) for group in context.layout.groups]
        blocks = [-(-(s + n) // self._cache.block_size) for s, n in zip(self._starts, context.lengths, strict=True)]
        made: list[list[_Reader]] = []
        for members, width in groups:
            parts = split_by_length([blocks[m] for m in members])
            made.append([self._make_reader(part, [members[i] for i in part], width, blocks, tables) for part in parts])
        return made

    def _make_reader(
        self, rows: list[int], members: list[int], width: int, blocks: list[int], tables: Tensor
    ) -> _Reader:
        longest = max(blocks[m] for m in members)
        own = tables[to_device(members, tables.device), :longest]
        starts = to_device([self._starts[m] for m in members], tables.device)
        return _Reader(self._cache, to_device(rows, tables.device), own, starts, width)

    def _read(self, readers: list[_Reader], layer: int, query: Tensor, scaling: float) -> Tensor:
        if len(readers) == 1:
            return readers[0].attend(layer, query, scaling)
        out = torch.empty_like(query)
        for reader in readers:
            out.index_copy_(0, reader.rows, reader.attend(layer, query.index_select(0, reader.rows), scaling))
        return out


def split_by_length(blocks: Sequence[int]) -> list[list[int]]:
    """Split sequences so that reading each part padded to its longest costs little more than what it holds.

    Args:
        blocks: of each sequence.

    Returns:
        indices of each part, rising; a single part holds all in order.
    """
    parts: list[list[int]] = []
    held = 0
    for i in sorted(range(len(blocks)), key=lambda i: -blocks[i]):
        if parts:
            read = blocks[parts[-1][0]] * (len(parts[-1]) + 1)
            if read <= max(_FREE_BLOCKS, _MAX_READ * (held + blocks[i])):
                parts[-1].append(i)
                held += blocks[i]
                continue
        parts.append([i])
        held = blocks[i]
    return [sorted(part) for part in parts]


class _Reader:
    """Attends with sequences that are read from the cache together.

    Args:
        cache: whose blocks are read.
        rows: which rows of the padded queries these are, int64 [S].
        tables: block ids, [S, B].
        starts: position of each sequence's first query, int64 [S].
        width: queries of each.
    """

    def __init__(self, cache: KVCache, rows: Tensor, tables: Tensor, starts: Tensor, width: int) -> None:
        self.rows = rows
        self._cache = cache
        self._tables = tables
        # A key at a later position than the query is hidden, and so is everything behind the sequence's end.
        keys = torch.arange(tables.shape[1] * cache.block_size, device=tables.device)
        queries = starts[:, None] + torch.arange(width, device=tables.device)
        hidden = keys > queries[..., None]  # [S, width, keys]
        self._mask = torch.zeros(hidden.shape, dtype=cache.shape.dtype, device=tables.device)
        self._mask.masked_fill_(hidden, -torch.inf)

    def attend(self, layer: int, query: Tensor, scaling: float) -> Tensor:
        """Attend with queries [S, width, heads, head dim]; returns the same shape."""
        # [S, keys, kv_heads, head dim] to [S, kv_heads, keys, head dim]; every view is gone before the next gather.
        keys, values = (x.transpose(1, 2) for x in self._cache.gather(layer, self._tables))
        sequences, width, heads, _ = query.shape
        shared = heads // keys.shape[1]
        if width == 1:
            # Query heads that share a key head look like several queries of it: no key is copied.
            q = query.reshape(sequences, keys.shape[1], shared, -1)
            mask = self._mask[:, None].expand(-1, 1, shared, -1)
            return F.scaled_dot_product_attention(q, keys, values, mask, scale=scaling).reshape(query.shape)
        q, mask = query.transpose(1, 2), self._mask[:, None]
        mixed = F.scaled_dot_product_attention(q, keys, values, mask, scale=scaling, enable_gqa=shared > 1)
        return mixed.transpose(1, 2)
