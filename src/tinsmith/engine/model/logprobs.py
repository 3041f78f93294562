"""From hidden states to logprobs, a chunk of tokens at a time, so that [tokens, vocabulary] never exists.

The output projection carries its own adapters. Logits and everything after them are in the wide dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.model.context import AdapterSpan, ForwardContext
from tinsmith.engine.model.lora import LoraLinear, LoraSpan, add_product, spans_for
from tinsmith.engine.model.tiles.products import Products, fill_up
from tinsmith.engine.model.tiles.softmax import log_normalisers

# A chunk may always hold this many logits (16 MiB in float32), so that small vocabularies are not cut into many small
# matrices.
_FREE_LOGITS = 1 << 22


def chunk_tokens(vocab_size: int, wanted: int, tile: int = 1) -> int:
    """Return the number of tokens to project at once, at least `wanted`; a multiple of `tile`."""
    return -(-max(wanted, _FREE_LOGITS // vocab_size) // tile) * tile


def project(head: LoraLinear, hidden: Tensor, spans: Sequence[LoraSpan]) -> Tensor:
    """Logits of every row, with adapters.

    Args:
        head: the output projection.
        hidden: [n, H], compute dtype.
        spans: adapters of the rows, see `head_spans`.

    Returns:
        [n, V], wide dtype.
    """
    logits = _base_logits(head, hidden)
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
        add_product(out, x, weight)
    else:
        products.add_mm(out, x.to(out.dtype), weight.to(out.dtype))


def _base_logits(head: LoraLinear, hidden: Tensor) -> Tensor:
    """W·x + b, accumulated and kept in the wide dtype.

    Rounded to bfloat16, neighbouring logits of a large vocabulary would be equal, and a logprob would be off by up to
    1/256 of its logit: enough to bias the ratios of policy-gradient losses.
    """
    wide = torch.promote_types(torch.float32, hidden.dtype)
    if hidden.dtype != wide and hidden.device.type == "cuda" and head.products.tile == 1:
        logits = torch.mm(hidden, head.weight.t(), out_dtype=wide)
        return logits if head.bias is None else logits.add_(head.bias)
    bias = None if head.bias is None else head.bias.to(wide)
    return head.products.linear(hidden.to(wide), head.weight.to(wide), bias)


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


def target_logprobs(
    head: LoraLinear,
    hidden: Tensor,
    spans: Sequence[LoraSpan],
    pairs: Pairs,
    chunk: int,
    gradients: PassGradients | None = None,
) -> Tensor:
    """Logprobs of chosen targets.

    Args:
        head: the output projection.
        hidden: [n, H], compute dtype.
        spans: adapters of the rows.
        pairs: what is wanted.
        chunk: rows to project at once.
        gradients: where the adapters' gradients go; None where nothing is trained.

    Returns:
        [P], wide dtype; differentiable with respect to `hidden`, and to the adapters through `gradients`.
    """
    if gradients is None or not torch.is_grad_enabled():
        return _forward(head, hidden, spans, pairs, chunk)[0]
    # In tiles all rows go one way, because a neighbour may bring an adapter on the head.
    if pairs.trained is not None and not spans and head.products.tile == 1:
        return _SingleTargetLogprobs.apply(hidden, head, pairs, chunk)  # pyright: ignore
    return _TargetLogprobs.apply(hidden, gradients.anchor, head, spans, pairs, chunk, gradients)  # pyright: ignore


def _forward(
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
    starts = _starts(n, chunk, spans, tile)
    cuts = _cuts(pairs.rows, starts, n)  # pairs rise with their rows, so those of a chunk are neighbours
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


def _starts(n: int, chunk: int, spans: Sequence[LoraSpan], tile: int) -> Sequence[int]:
    """First row of each chunk."""
    if tile == 1 or not spans:
        return range(0, n, chunk)
    # An adapter's gradient is a sum over the rows of each chunk, so a sequence's rows are cut as if it were alone.
    bounds = sorted({0, n, *(bound for s in spans for bound in (s.span.start, s.span.end))})
    return [start for low, high in pairwise(bounds) for start in range(low, high, chunk)]


def _cuts(rows: Tensor, starts: Sequence[int], n: int) -> list[int]:
    """First pair of each chunk, and the number of pairs."""
    if len(starts) <= 1:
        return [0, rows.shape[0]]
    return torch.searchsorted(rows, torch.tensor((*starts, n), device=rows.device)).tolist()


class _SingleTargetLogprobs(torch.autograd.Function):
    """d logprob(t) / d hidden = (onehot(t) - softmax)·W, of one target per row and a head without adapters.

    With one target the loss has only a factor to add to it, so that it can be computed while the logits are there: no
    row is projected twice. Rows that are not trained get no gradient and cost nothing.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: LoraLinear, pairs: Pairs, chunk: int) -> Tensor:
        trained = pairs.trained
        assert trained is not None
        starts = range(0, hidden.shape[0], chunk)
        cuts = _cuts(trained, starts, hidden.shape[0])
        slopes = hidden.new_empty(trained.shape[0], hidden.shape[1])

        def take(start: int, logits: Tensor, normalisers: Tensor) -> None:
            some = slice(cuts[start // chunk], cuts[start // chunk + 1])
            rows = trained[some] - start
            if rows.shape[0] < logits.shape[0]:
                logits, normalisers = logits[rows], normalisers[rows]
            # Not W[t] less softmax·W: for a token that is all but certain they are nearly equal, and in bfloat16 their
            # difference would be noise.
            slope = logits.sub_(normalisers[:, None]).exp_().neg_()
            slope[torch.arange(rows.shape[0], device=rows.device), pairs.targets[trained[some]]] += 1
            torch.mm(slope.to(hidden.dtype), head.weight, out=slopes[some])

        logprobs, _, _ = _forward(head, hidden, (), pairs, chunk, take)
        ctx.save_for_backward(slopes, trained)
        ctx.rows = hidden.shape[0]
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        slopes, trained = ctx.saved_tensors
        grad_x = slopes * grads[0][trained, None].to(slopes.dtype)
        if trained.shape[0] < ctx.rows:
            grad_x = slopes.new_zeros(ctx.rows, slopes.shape[1]).index_copy_(0, trained, grad_x)
        return grad_x, None, None, None


class _TargetLogprobs(torch.autograd.Function):
    """d logprob(t) / d logits = onehot(t) - softmax, recomputed chunk by chunk for rows that have a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        anchor: Tensor,
        head: LoraLinear,
        spans: Sequence[LoraSpan],
        pairs: Pairs,
        chunk: int,
        gradients: PassGradients,
    ) -> Tensor:
        logprobs, normalisers, logits = _forward(head, hidden, spans, pairs, chunk)
        ctx.save_for_backward(hidden)
        ctx.parts = (head, spans, pairs, chunk, gradients, normalisers, logits)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        head, spans, pairs, chunk, gradients, normalisers, logits = ctx.parts
        ctx.parts = None  # frees the logits as soon as this returns; they are also overwritten below
        (grad,) = grads
        # Prompts have weight 0, so that often most rows have no gradient: those are neither projected nor multiplied.
        live = grad.nonzero().squeeze(1)
        rows, targets, grad = pairs.rows[live], pairs.targets[live], grad[live]
        active, row_of_pair = torch.unique_consecutive(rows, return_inverse=True)
        # With several targets in a row the softmax counts once for each: sum of their gradients, [active rows].
        total = grad.new_zeros(active.shape[0]).index_add_(0, row_of_pair, grad)
        x = hidden if active.shape[0] == hidden.shape[0] else hidden[active]
        kept = _spans_of_rows(spans, active)
        if logits is not None and active.shape[0] != hidden.shape[0]:
            logits = logits[active]
        grad_x = torch.empty_like(x)
        tile = head.products.tile
        starts = _starts(x.shape[0], chunk, kept, tile)
        cuts = _cuts(row_of_pair, starts, x.shape[0])
        for i, (start, end) in enumerate(pairwise((*starts, x.shape[0]))):
            pair = slice(cuts[i], cuts[i + 1])
            some, chunk_spans = x[start:end], clip_spans(kept, start, end)
            # In place, because this is the largest tensor of the pass: logits [rows, V] become their gradient
            # grad·onehot(target) - total·softmax.
            z = fill_up(project(head, some, chunk_spans) if logits is None else logits, tile)
            z.sub_(fill_up(normalisers[active[start:end], None], tile)).exp_()
            z = z[: end - start].mul_(-total[start:end, None])
            z.index_put_((row_of_pair[pair] - start, targets[pair]), grad[pair], accumulate=True)
            grad_x[start:end] = _backward_chunk(head, some, z, chunk_spans, gradients)
        if x is not hidden:
            grad_x = torch.zeros_like(hidden).index_copy_(0, active, grad_x)
        return grad_x, None, None, None, None, None, None


def _spans_of_rows(spans: Sequence[LoraSpan], rows: Tensor) -> list[LoraSpan]:
    """Spans over a selection of rows (rising), counted in the selection."""
    if not spans:
        return []
    bounds = torch.tensor([(s.span.start, s.span.end) for s in spans], device=rows.device)
    found = torch.searchsorted(rows, bounds).tolist()
    return [
        LoraSpan(AdapterSpan(s.span.slot, low, high), s.a, s.b, s.scale)
        for s, (low, high) in zip(spans, found, strict=True)
        if high > low
    ]


def _backward_chunk(
    head: LoraLinear, x: Tensor, grad_logits: Tensor, spans: Sequence[LoraSpan], gradients: PassGradients
) -> Tensor:
    """Gradient of `project` at one chunk: [rows, V] in wide dtype to [rows, H] in compute dtype."""
    # Rounded to compute dtype for the matmuls, as every other gradient between layers is; sums stay wide.
    grad = grad_logits.to(x.dtype)
    products = head.products
    grad_x = products.mm(grad, head.weight)
    for s in spans:
        g, some = s.rows(grad), s.rows(x)
        h = products.mm(some, s.a.t()).mul_(s.scale)
        grad_h = products.mm(g, s.b).mul_(s.scale)
        products.add_mm(s.rows(grad_x), grad_h, s.a)
        grad_a, grad_b = gradients.views(s.span.slot, head.name)
        add_product(grad_a, grad_h.t(), some)
        add_product(grad_b, g.t(), h)
    return grad_x
