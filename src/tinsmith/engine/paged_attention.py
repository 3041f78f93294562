"""Attention of new tokens to keys and values that lie in the paged cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.attention import PaddedLayout, layout_of, packed_attention, pad_groups, unpad_groups
from tinsmith.engine.context import ForwardContext, Mode
from tinsmith.engine.kv_cache import KVCache


class PagedPass:
    """One sampling pass over the cache; implements `context.PagedAttention`.

    Sequences that start at position 0 attend to themselves only, in the same way as in training. Others read their
    blocks back: queries are right-padded to the longest of a group, and a query sees the keys up to its own position.

    Args:
        cache: where keys and values are kept.
        starts: keys of each sequence that were in the cache before this pass.
    """

    def __init__(self, cache: KVCache, starts: list[int]) -> None:
        self._cache = cache
        self._starts = starts
        self._groups: list[_Group] | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        """Store the new keys and values, then attend; shapes as in `context.PagedAttention`."""
        if context.slot_mapping is None or context.block_tables is None:
            raise ValueError("a paged pass needs slot_mapping and block_tables in its context")
        self._cache.store(layer, context.slot_mapping, key, value)
        if not any(self._starts):
            return packed_attention(query, key, value, layout_of(context), scaling)
        if context.mode is Mode.DECODE:
            return self._all(context.block_tables).attend(self._cache, layer, query, scaling)
        layout = layout_of(context)
        if self._groups is None:
            self._groups = self._split(layout, context, context.block_tables)
        outs = [
            group.attend(self._cache, layer, padded, scaling)
            for group, padded in zip(self._groups, pad_groups(query, layout), strict=True)
        ]
        return unpad_groups(outs, layout)

    def _all(self, tables: Tensor) -> _Group:
        if self._groups is None:
            self._groups = [_Group(tables, self._starts, 1, self._cache)]
        return self._groups[0]

    def _split(self, layout: PaddedLayout, context: ForwardContext, tables: Tensor) -> list[_Group]:
        blocks = [-(-(s + n) // self._cache.block_size) for s, n in zip(self._starts, context.lengths, strict=True)]
        groups: list[_Group] = []
        for padded in layout.groups:
            rows = torch.tensor(padded.members, device=tables.device)
            width = max(blocks[m] for m in padded.members)
            starts = [self._starts[m] for m in padded.members]
            groups.append(_Group(tables[rows, :width], starts, padded.width, self._cache))
        return groups


class _Group:
    """Sequences whose queries are padded to one width.

    Args:
        tables: block ids, [S, B].
        starts: position of each sequence's first query.
        width: queries of each.
        cache: for its block size and dtype.
    """

    def __init__(self, tables: Tensor, starts: list[int], width: int, cache: KVCache) -> None:
        self._tables = tables
        self._width = width
        keys = torch.arange(tables.shape[1] * cache.block_size, device=tables.device)
        queries = torch.tensor(starts, device=tables.device)[:, None] + torch.arange(width, device=tables.device)
        hidden = keys > queries[..., None]
        self._mask = torch.zeros(hidden.shape, dtype=cache.shape.dtype, device=tables.device)
        self._mask.masked_fill_(hidden, -torch.inf)

    def attend(self, cache: KVCache, layer: int, query: Tensor, scaling: float) -> Tensor:
        """Attend with queries [S * width, heads, head dim]; returns the same shape."""
        keys, values = (x.transpose(1, 2) for x in cache.gather(layer, self._tables))
        sequences, heads, shared = self._tables.shape[0], query.shape[1], query.shape[1] // keys.shape[1]
        if self._width == 1:
            # Query heads that share a key head look like several queries of it: no key is copied.
            q = query.view(sequences, keys.shape[1], shared, -1)
            mask = self._mask[:, None].expand(-1, 1, shared, -1)
            return F.scaled_dot_product_attention(q, keys, values, mask, scale=scaling).reshape(query.shape)
        q = query.view(sequences, self._width, heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            q, keys, values, self._mask[:, None], scale=scaling, enable_gqa=shared > 1
        )
        return mixed.transpose(1, 2).reshape(query.shape)
