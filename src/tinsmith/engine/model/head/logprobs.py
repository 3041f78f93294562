"""From hidden states to logprobs, a chunk of tokens at a time, so that [tokens, vocabulary] never exists.

The output projection carries its own adapters. Logits and everything after them are in the wide dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tinsmith.engine.model.context import AdapterSpan, ForwardContext
from tinsmith.engine.model.lora import LoraLinear, LoraSpan, forward_additions, spans_for
from tinsmith.engine.model.tiles.products import Products, fill_up
from tinsmith.engine.model.tiles.softmax import log_normalisers
from tinsmith.engine.model.wide_products import add_wide_mm, wide_mm

# A chunk may always hold this many logits (16 MiB in float32), so that small vocabularies are not cut into many small
# matrices.
_FREE_LOGITS = 1 << 22


def chunk_tokens(vocab_size: int, wanted: int, tile: int = 1) -> int:
    """Return the number of tokens to project at once, at least `wanted`; a multiple of `tile`."""
    return -(-max(wanted, _FREE_LOGITS // vocab_size) // tile) * tile


def project(head: LoraLinear, hidden: Tensor, spans: Sequence[LoraSpan], out: Tensor | None = None) -> Tensor:
    """Logits of every row, with adapters.

    Args:
        head: the output projection.
        hidden: [n, H], compute dtype.
        spans: adapters of the rows, see `head_spans`.
        out: where to write them, if the head is not in tiles.

    Returns:
        [n, V], wide dtype.
    """
    if head.products.tile == 1:
        if out is None:
            wide = torch.promote_types(torch.float32, hidden.dtype)
            out = hidden.new_empty(hidden.shape[0], head.out_features, dtype=wide)
        found = head.products.mm_with(hidden, head.weight.t(), head.bias, forward_additions(spans), out)
        if found is not None:
            return found[0]
    logits = _base_logits(head, hidden, out)
    for s in spans:
        # As in `lora.add_delta`, but into a sum whose dtype may be wider: h is [tokens, R], B is [V, R].
        h = head.products.mm(s.rows(hidden), s.a.t()).mul_(s.scale)
        _add_wide(s.rows(logits), h, s.b.t(), head.products)
    return logits


def head_spans(head: LoraLinear, context: ForwardContext) -> list[LoraSpan]:
    """Return the spans of a pass whose adapters act on the output projection."""
    return spans_for(context, head.name)


def _add_wide(out: Tensor, x: Tensor, weight: Tensor, products: Products) -> None:
    """Add x·weight to `out`, whose dtype may be wider."""
    if products.tile == 1:
        add_wide_mm(out, x, weight)
    else:
        products.add_mm(out, x.to(out.dtype), weight.to(out.dtype))


def _base_logits(head: LoraLinear, hidden: Tensor, out: Tensor | None) -> Tensor:
    """W·x + b, accumulated and kept in the wide dtype.

    Rounded to bfloat16, neighbouring logits of a large vocabulary would be equal, and a logprob would be off by up to
    1/256 of its logit: enough to bias the ratios of policy-gradient losses.
    """
    wide = torch.promote_types(torch.float32, hidden.dtype)
    bias = None if head.bias is None else head.bias.to(wide)
    if head.products.tile > 1:
        return head.products.linear(hidden.to(wide), head.weight.to(wide), bias)
    if hidden.dtype == wide:
        logits = head.products.mm(hidden, head.weight.t(), out)
    else:
        logits = wide_mm(hidden, head.weight.t(), wide, out)
    return logits if bias is None else logits.add_(bias)


def clip_spans(spans: Sequence[LoraSpan], start: int, end: int) -> list[LoraSpan]:
    """Return the parts of spans inside rows [start, end), counted from `start`."""
    clipped: list[LoraSpan] = []
    for s in spans:
        low, high = max(s.span.start, start), min(s.span.end, end)
        if low < high:
            clipped.append(LoraSpan(AdapterSpan(s.span.slot, low - start, high - start), s.a, s.b, s.scale))
    return clipped


@dataclass(frozen=True, slots=True)
class Pairs:
    """The (row, target) pairs whose logprobs are wanted.

    Attributes:
        rows: rows of the hidden states in rising order, repeats allowed, int64 [P].
        targets: token ids, int64 [P].
        trained: rows whose logprobs can have a gradient, rising, int64 [A], where every row has exactly one target and
            so stands at its own place; None where rows have other numbers of targets.
    """

    rows: Tensor
    targets: Tensor
    trained: Tensor | None = None


def forward_chunks(
    head: LoraLinear,
    hidden: Tensor,
    spans: Sequence[LoraSpan],
    pairs: Pairs,
    chunk: int,
    take: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logprobs [P], log-normalisers [n], and the logits where there is only one chunk.

    Args:
        head: the output projection.
        hidden: [n, H].
        spans: adapters of the rows.
        pairs: what is wanted.
        chunk: rows to project at once.
        take: is handed the first row of each chunk, its logits [rows, V], which it may overwrite, and its normalisers.
    """
    wide = torch.promote_types(torch.float32, hidden.dtype)
    n = hidden.shape[0]
    logprobs = torch.empty(pairs.rows.shape[0], dtype=wide, device=hidden.device)
    normalisers = torch.empty(n, dtype=wide, device=hidden.device)
    logits: Tensor | None = None
    tile = head.products.tile
    starts = chunk_starts(n, chunk, spans, tile)
    cuts = chunk_cuts(pairs.rows, starts, n)  # pairs rise with their rows, so those of a chunk are neighbours
    for i, (start, end) in enumerate(pairwise((*starts, n))):
        first, last = cuts[i], cuts[i + 1]
        logits = project(head, fill_up(hidden[start:end], tile), clip_spans(spans, start, end))  # [chunk, V]
        rows, targets = pairs.rows[first:last], pairs.targets[first:last]
        # log softmax at the targets alone: the logit less log-sum-exp; the other V - 1 are never written.
        if tile == 1:
            normalisers[start:end] = logits.logsumexp(-1)
            logprobs[first:last] = logits[rows - start, targets] - normalisers[rows]
        else:
            # As the sampler reckons it, to the last bit.
            peak, log_total = (x[: end - start] for x in log_normalisers(logits))
            normalisers[start:end] = peak + log_total
            above = logits[rows - start, targets].to(torch.float64) - peak[rows - start]
            logprobs[first:last] = above - log_total[rows - start]
        if take is not None:
            take(start, logits, normalisers[start:end])
    # A single chunk is small enough to keep, which spares the backward pass one projection.
    return logprobs, normalisers, logits if len(starts) == 1 and tile == 1 else None


def chunk_starts(n: int, chunk: int, spans: Sequence[LoraSpan], tile: int) -> Sequence[int]:
    """First row of each chunk."""
    if tile == 1 or not spans:
        return range(0, n, chunk)
    # An adapter's gradient is a sum over the rows of each chunk, so a sequence's rows are cut as if it were alone.
    bounds = sorted({0, n, *(bound for s in spans for bound in (s.span.start, s.span.end))})
    return [start for low, high in pairwise(bounds) for start in range(low, high, chunk)]


def chunk_cuts(rows: Tensor, starts: Sequence[int], n: int) -> list[int]:
    """First pair of each chunk, and the number of pairs."""
    if len(starts) <= 1:
        return [0, rows.shape[0]]
    return torch.searchsorted(rows, torch.tensor((*starts, n), device=rows.device)).tolist()
