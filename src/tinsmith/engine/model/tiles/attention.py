"""Causal attention whose sums have the same order for a query whoever else is in the pass.

Sixteen queries at a time, at positions that begin at a multiple of sixteen, meet 64 keys at a time, from the first key
on, with the online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135, algorithm 1). So a query's result
follows from its position, its own sequence's keys and nothing else: it is the same in training, in a prefill of any
cut, and in decoding, where the fifteen other queries are blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.model.padded import LengthGroup
from tinsmith.engine.transfers import to_device

# Widths of padded sequences are multiples of it.
QUERIES = 16
KEYS = 64


def tiled_attention(group: LengthGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend within each sequence of a padded group; differentiable. Shapes as in `attention.packed_attention`.

    Args:
        group: the sequences.
        query: [count * width, query heads, head dim]; key and value with their own heads.
        scaling: factor on query·key.
    """
    q, k, v = (x.unflatten(0, (group.count, group.width)).transpose(1, 2) for x in (query, key, value))
    mixed: Tensor = _Attention.apply(q, k, v, scaling)  # pyright: ignore[reportAssignmentType]
    return mixed.transpose(1, 2).reshape(query.shape)


def attend_to_cached(query: Tensor, keys: Tensor, values: Tensor, starts: Sequence[int], scaling: float) -> Tensor:
    """Attend with queries whose keys were gathered from a cache.

    Args:
        query: [S, n, query heads, head dim], neighbours in their sequence; with more than one, S is 1.
        keys: [S, K, key heads, head dim], from the first of the sequence on; finite behind the last.
        values: likewise.
        starts: position of each sequence's first query.
        scaling: factor on query·key.

    Returns:
        the shape of `query`.
    """
    sequences, n, heads, width = query.shape
    offsets = [start % QUERIES for start in starts]
    tiles = -(-(max(offsets) + n) // QUERIES)
    q = query.new_zeros(sequences, tiles * QUERIES, heads, width)
    for place, offset in enumerate(offsets):
        q[place, offset : offset + n] = query[place]
    q = _widened(q.transpose(1, 2))
    k, v = (_filled(_spread(x.transpose(1, 2), heads), KEYS) for x in (keys, values))
    first = to_device([start - offset for start, offset in zip(starts, offsets, strict=True)], q.device)
    mixed = torch.empty_like(q)
    longest = max(starts) - max(starts) % QUERIES
    for tile in range(tiles):
        rows = slice(tile * QUERIES, (tile + 1) * QUERIES)
        last = first[:, None] + torch.arange(rows.start, rows.stop, device=q.device)  # [S, 16]
        seen = _keys_seen(longest + rows.start)
        mixed[:, :, rows] = _attend_tile(q[:, :, rows] * scaling, k, v, last, min(seen, k.shape[2]))[0]
    out = torch.stack([mixed[place, :, offset : offset + n] for place, offset in enumerate(offsets)])
    return out.transpose(1, 2).to(query.dtype)


def _attend_tile(query: Tensor, key: Tensor, value: Tensor, last: Tensor, seen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attend with 16 queries of each sequence.

    Args:
        query: [S, heads, 16, D], scaled.
        key: [S, heads, K, D]; value likewise.
        last: position of the last key that each query sees, [S or 1, 16].
        seen: keys that any query sees, a multiple of 64.

    Returns:
        [S, heads, 16, D], and of each query the largest score and the sum of exp(score - largest), [S, heads, 16, 1].
    """
    sequences, heads, queries, width = query.shape
    q = query.reshape(-1, queries, width)
    largest = q.new_full((q.shape[0], queries, 1), -torch.inf)
    total, mixed = torch.zeros_like(largest), torch.zeros_like(q)
    for start in range(0, seen, KEYS):
        k, v = (x[:, :, start : start + KEYS].reshape(-1, KEYS, width) for x in (key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).view(sequences, heads, queries, KEYS)
        hidden = torch.arange(start, start + KEYS, device=q.device) > last[..., None]  # [S, 16, 64]
        scores = scores.masked_fill_(hidden[:, None], -torch.inf).view(-1, queries, KEYS)
        # Every query sees the first key, so that this is finite from the first tile on.
        risen = torch.maximum(largest, scores.amax(-1, keepdim=True))
        # As wide as the values, so that no kernel meets a row that fills no vector.
        shrink = (largest - risen).expand(-1, -1, width).contiguous().exp_()
        weights = (scores - risen).exp_()
        total = total * shrink[..., :1] + weights.sum(-1, keepdim=True)
        mixed = mixed * shrink + torch.bmm(weights, v)
        largest = risen
    mixed = mixed / total
    return tuple(x.view(sequences, heads, queries, -1) for x in (mixed, largest, total))  # pyright: ignore


class _Attention(torch.autograd.Function):
    """q [B, heads, W, D], k and v [B, key heads, W, D] of B sequences of width W, a multiple of 16."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        heads, width = query.shape[1:3]
        q = _widened(query)
        k, v = (_filled(_spread(x, heads), KEYS) for x in (key, value))
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, width, QUERIES):
            rows = slice(start, start + QUERIES)
            last = torch.arange(start, start + QUERIES, device=q.device)[None]
            parts.append(_attend_tile(q[:, :, rows] * scaling, k, v, last, _keys_seen(start)))
        mixed, largest, total = (torch.cat(column, 2) for column in zip(*parts, strict=True))
        ctx.save_for_backward(query, key, value, mixed, largest, total)
        ctx.scaling = scaling
        return mixed.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, mixed, largest, total = ctx.saved_tensors
        heads, width = query.shape[1:3]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        hidden = torch.ones(width, width, dtype=torch.bool, device=query.device).triu_(1)
        # Sequence by sequence: [heads, W, W] of one is all that there is at a time.
        for i, grad in enumerate(grads[0].to(mixed.dtype)):
            q, k, v = _widened(query[i]), *(_spread(x[i : i + 1], heads)[0] for x in (key, value))
            scores = torch.bmm(q * ctx.scaling, k.transpose(1, 2)).masked_fill_(hidden, -torch.inf)
            weights = scores.sub_(largest[i]).exp_().div_(total[i])  # [heads, W, W]
            grad = grad.contiguous()
            grad_weights = torch.bmm(grad, v.transpose(1, 2))
            # Dao et al., equation 4: dS = P * (dP - rowsum(dO * O)).
            grad_scores = weights * grad_weights.sub_((grad * mixed[i]).sum(-1, keepdim=True))
            grad_q = torch.bmm(grad_scores, k).mul_(ctx.scaling)
            grad_k = torch.bmm(grad_scores.transpose(1, 2), q).mul_(ctx.scaling)
            grad_v = torch.bmm(weights.transpose(1, 2), grad)
            # Query heads that share a key head lie side by side.
            shared = (x.unflatten(0, (key.shape[1], -1)).sum(1) for x in (grad_k, grad_v))
            found.append((grad_q, *shared))  # pyright: ignore[reportArgumentType]
        q, k, v = (torch.stack(column).to(query.dtype) for column in zip(*found, strict=True))
        return q, k, v, None


def _keys_seen(first: int) -> int:
    """Keys that 16 queries from position `first` on see, rounded up to whole tiles."""
    return -(-(first + QUERIES) // KEYS) * KEYS


def _widened(x: Tensor) -> Tensor:
    """Scores and sums are never narrower than float32."""
    return x.to(torch.promote_types(torch.float32, x.dtype))


def _spread(x: Tensor, heads: int) -> Tensor:
    """[B, key heads, K, D] to [B, query heads, K, D] in the wide dtype."""
    return _widened(x).repeat_interleave(heads // x.shape[1], 1)


def _filled(x: Tensor, multiple: int) -> Tensor:
    """Add zeros behind the keys [B, heads, K, D] up to a multiple."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple))
