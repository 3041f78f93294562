"""The gradient of logprobs: with respect to the hidden states, and into the buffers of the head's adapters.

Where the loss of a position depends on its own logprob alone, its slope is known as soon as the logprob is: logprobs
and gradient then come out of the same chunk, and nothing is projected twice. Other losses are told the logprobs of all
positions first and come back for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.model.context import AdapterSpan
from tinsmith.engine.model.head.logprobs import Pairs, chunk_cuts, chunk_starts, clip_spans, forward_chunks, project
from tinsmith.engine.model.lora import (
    LoraLinear,
    LoraSpan,
    add_delta_gradients,
    add_factor_gradients,
    backward_additions,
)
from tinsmith.engine.model.native.training.layer_functions import exponentials, run_here
from tinsmith.engine.model.tiles.products import fill_up

# The slope of the loss: takes the first pair of a chunk and the logprobs from there on, [Q], and returns the derivative
# of the summed loss by each of them, [Q].
Slopes = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def logprobs_and_gradient(
    head: LoraLinear,
    hidden: Tensor,
    spans: Sequence[LoraSpan],
    pairs: Pairs,
    chunk: int,
    gradients: PassGradients,
    slopes: Slopes,
) -> tuple[Tensor, Tensor]:
    """Logprobs of chosen targets and the gradient of a loss that is a sum over them.

    With e = exp(z - max z) of a row's logits z and s_j the slope at its target t_j: d loss / d z = sum of
    s_j·onehot(t_j) - (sum of s_j / sum of e)·e. One piece of memory [chunk, V] holds z, then e, then that gradient.

    Args:
        head: the output projection, not in tiles.
        hidden: [n, H], compute dtype; its gradient is computed where it requires one.
        spans: adapters of the rows.
        pairs: what is wanted.
        chunk: rows to project at once.
        gradients: the adapters' are added here.
        slopes: of the loss.

    Returns:
        logprobs [P], wide dtype, and the gradient with respect to `hidden` [n, H], zeros where it requires none.
    """
    n = hidden.shape[0]
    wide = torch.promote_types(torch.float32, hidden.dtype)
    room = hidden.new_empty(min(chunk, n), head.out_features, dtype=wide)
    logprobs = hidden.new_empty(pairs.rows.shape[0], dtype=wide)
    grad_x = torch.zeros_like(hidden)
    starts = range(0, n, chunk)
    cuts = chunk_cuts(pairs.rows, starts, n)
    live = cuts if pairs.trained is None else chunk_cuts(pairs.trained, starts, n)
    for i, start in enumerate(starts):
        end, pair = min(start + chunk, n), slice(cuts[i], cuts[i + 1])
        x, rows, targets = hidden[start:end], pairs.rows[pair] - start, pairs.targets[pair]
        z = project(head, x, clip_spans(spans, start, end), room[: end - start])
        of_targets = z[rows, targets]
        peak, total = exponentials(z) if head.native and run_here(z) else _exponentials(z)
        logprobs[pair] = of_targets - peak[rows, 0] - total.log()[rows, 0]
        slope = slopes(pair.start, logprobs[pair])
        every = slice(start, end)
        if pairs.trained is not None and live[i + 1] - live[i] < end - start:
            # Prompts have weight 0, so that often most rows have no gradient: those are not multiplied again. One
            # target per row: a row's number is its pair's.
            every = pairs.trained[live[i] : live[i + 1]]
            some = every - start
            if not some.shape[0]:
                continue
            x, z, total, slope, targets = x[some], z[some], total[some], slope[some], targets[some]
            rows = torch.arange(some.shape[0], device=some.device)
        share = torch.zeros_like(total).index_add_(0, rows, slope[:, None]).div_(total)
        z.mul_(share.neg_()).index_put_((rows, targets), slope, accumulate=True)
        kept = clip_spans(spans, start, end) if isinstance(every, slice) else _spans_of_rows(spans, every)
        if hidden.requires_grad:
            grad_x[every] = _backward_chunk(head, x, z, kept, gradients)
        elif kept:
            _add_head_gradients(None, head, x, z.to(x.dtype), kept, gradients)
    return logprobs, grad_x


def _exponentials(z: Tensor) -> tuple[Tensor, Tensor]:
    """`native.layer_functions.exponentials` of any dtype and device."""
    peak = z.amax(-1, keepdim=True)
    return peak, z.sub_(peak).exp_().sum(-1, keepdim=True)


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
        return forward_chunks(head, hidden, spans, pairs, chunk)[0]
    # In tiles all rows go one way, because a neighbour may bring an adapter on the head.
    if pairs.trained is not None and not spans and head.products.tile == 1:
        return _SingleTargetLogprobs.apply(hidden, head, pairs, chunk)  # pyright: ignore
    return _TargetLogprobs.apply(hidden, gradients.anchor, head, spans, pairs, chunk, gradients)  # pyright: ignore


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
        cuts = chunk_cuts(trained, starts, hidden.shape[0])
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
            head.products.mm(slope.to(hidden.dtype), head.weight, slopes[some])

        logprobs, _, _ = forward_chunks(head, hidden, (), pairs, chunk, take)
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
        logprobs, normalisers, logits = forward_chunks(head, hidden, spans, pairs, chunk)
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
        starts = chunk_starts(x.shape[0], chunk, kept, tile)
        cuts = chunk_cuts(row_of_pair, starts, x.shape[0])
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
    grad, products = grad_logits.to(x.dtype), head.products
    found = products.mm_with(grad, head.weight, None, backward_additions(spans))
    if found is not None:
        add_factor_gradients(found[1], grad, x, _hidden(head, x, spans), spans, head.name, gradients, products)
        return found[0]
    grad_x = products.mm(grad, head.weight)
    _add_head_gradients(grad_x, head, x, grad, spans, gradients)
    return grad_x


def _add_head_gradients(
    grad_x: Tensor | None,
    head: LoraLinear,
    x: Tensor,
    grad: Tensor,
    spans: Sequence[LoraSpan],
    gradients: PassGradients,
) -> None:
    add_delta_gradients(grad_x, grad, x, _hidden(head, x, spans), spans, head.name, gradients, head.products)


def _hidden(head: LoraLinear, x: Tensor, spans: Sequence[LoraSpan]) -> list[Tensor]:
    """A·x anew: it is small, and to keep it for all rows would be a tensor more."""
    return [head.products.mm(s.rows(x), s.a.t()).mul_(s.scale) for s in spans]
