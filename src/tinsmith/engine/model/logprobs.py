"""From hidden states to logprobs, a chunk of tokens at a time, so that [tokens, vocabulary] never exists.

The output projection carries its own adapters. Logits and everything after them are in the wide dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.model.context import AdapterSpan, ForwardContext
from tinsmith.engine.model.lora import LoraLinear, LoraRun, add_product, runs_for

# A chunk may always hold this many logits, so that small vocabularies are not cut into many small matrices.
_FREE_LOGITS = 1 << 22


def chunk_tokens(vocab_size: int, wanted: int) -> int:
    """Return the number of tokens to project at once, at least `wanted`."""
    return max(wanted, _FREE_LOGITS // vocab_size)


def project(head: LoraLinear, hidden: Tensor, runs: Sequence[LoraRun]) -> Tensor:
    """Logits of every row, with adapters.

    Args:
        head: the output projection.
        hidden: [n, H], compute dtype.
        runs: adapters of the rows, see `head_runs`.

    Returns:
        [n, V], wide dtype.
    """
    logits = _base_logits(head, hidden)
    for r in runs:
        add_product(r.rows(logits), torch.mm(r.rows(hidden), r.a.t()).mul_(r.scale), r.b.t())
    return logits


def head_runs(head: LoraLinear, context: ForwardContext) -> list[LoraRun]:
    """Return the runs of a pass whose adapters act on the output projection."""
    return runs_for(context, head.name)


def _base_logits(head: LoraLinear, hidden: Tensor) -> Tensor:
    """W·x + b, accumulated and kept in the wide dtype."""
    wide = torch.promote_types(torch.float32, hidden.dtype)
    if hidden.dtype != wide and hidden.device.type == "cuda":
        logits = torch.mm(hidden, head.weight.t(), out_dtype=wide)
        return logits if head.bias is None else logits.add_(head.bias)
    return F.linear(hidden.to(wide), head.weight.to(wide), None if head.bias is None else head.bias.to(wide))


def clip_runs(runs: Sequence[LoraRun], start: int, end: int) -> list[LoraRun]:
    """Return the parts of runs inside rows [start, end), counted from `start`."""
    clipped: list[LoraRun] = []
    for r in runs:
        low, high = max(r.run.start, start), min(r.run.end, end)
        if low < high:
            clipped.append(LoraRun(AdapterSpan(r.run.slot, low - start, high - start), r.a, r.b, r.scale))
    return clipped


@dataclass(frozen=True, slots=True)
class Pairs:
    """The (row, target) pairs whose logprobs are wanted.

    Attributes:
        rows: rows of the hidden states in rising order, repeats allowed, int64 [P].
        targets: token ids, int64 [P].
    """

    rows: Tensor
    targets: Tensor


def target_logprobs(
    head: LoraLinear,
    hidden: Tensor,
    runs: Sequence[LoraRun],
    pairs: Pairs,
    chunk: int,
    gradients: PassGradients | None = None,
) -> Tensor:
    """Logprobs of chosen targets.

    Args:
        head: the output projection.
        hidden: [n, H], compute dtype.
        runs: adapters of the rows.
        pairs: what is wanted.
        chunk: rows to project at once.
        gradients: where the adapters' gradients go; None where nothing is trained.

    Returns:
        [P], wide dtype; differentiable with respect to `hidden`, and to the adapters through `gradients`.
    """
    if gradients is None or not torch.is_grad_enabled():
        return _forward(head, hidden, runs, pairs, chunk)[0]
    return _TargetLogprobs.apply(hidden, gradients.anchor, head, runs, pairs, chunk, gradients)  # pyright: ignore


def _forward(
    head: LoraLinear, hidden: Tensor, runs: Sequence[LoraRun], pairs: Pairs, chunk: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logprobs [P], log-normalisers [n], and the logits where there is only one chunk."""
    wide = torch.promote_types(torch.float32, hidden.dtype)
    n = hidden.shape[0]
    logprobs = torch.empty(pairs.rows.shape[0], dtype=wide, device=hidden.device)
    normalisers = torch.empty(n, dtype=wide, device=hidden.device)
    logits: Tensor | None = None
    starts = range(0, n, chunk)
    cuts = _cuts(pairs.rows, starts, n)
    for i, start in enumerate(starts):
        end, (first, last) = min(start + chunk, n), (cuts[i], cuts[i + 1])
        logits = project(head, hidden[start:end], clip_runs(runs, start, end))
        normalisers[start:end] = logits.logsumexp(-1)
        rows = pairs.rows[first:last]
        logprobs[first:last] = logits[rows - start, pairs.targets[first:last]] - normalisers[rows]
    return logprobs, normalisers, logits if len(starts) == 1 else None


def _cuts(rows: Tensor, starts: Sequence[int], n: int) -> list[int]:
    """First pair of each chunk, and the number of pairs."""
    if len(starts) <= 1:
        return [0, rows.shape[0]]
    return torch.searchsorted(rows, torch.tensor((*starts, n), device=rows.device)).tolist()


class _TargetLogprobs(torch.autograd.Function):
    """d logprob(t) / d logits = onehot(t) - softmax, recomputed chunk by chunk for rows that have a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        anchor: Tensor,
        head: LoraLinear,
        runs: Sequence[LoraRun],
        pairs: Pairs,
        chunk: int,
        gradients: PassGradients,
    ) -> Tensor:
        logprobs, normalisers, logits = _forward(head, hidden, runs, pairs, chunk)
        ctx.save_for_backward(hidden)
        ctx.parts = (head, runs, pairs, chunk, gradients, normalisers, logits)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        head, runs, pairs, chunk, gradients, normalisers, logits = ctx.parts
        ctx.parts = None
        (grad,) = grads
        live = grad.nonzero().squeeze(1)
        rows, targets, grad = pairs.rows[live], pairs.targets[live], grad[live]
        active, row_of_pair = torch.unique_consecutive(rows, return_inverse=True)
        total = grad.new_zeros(active.shape[0]).index_add_(0, row_of_pair, grad)
        x = hidden if active.shape[0] == hidden.shape[0] else hidden[active]
        kept = _runs_of_rows(runs, active)
        if logits is not None and active.shape[0] != hidden.shape[0]:
            logits = logits[active]
        grad_x = torch.empty_like(x)
        starts = range(0, x.shape[0], chunk)
        cuts = _cuts(row_of_pair, starts, x.shape[0])
        for i, start in enumerate(starts):
            end, pair = min(start + chunk, x.shape[0]), slice(cuts[i], cuts[i + 1])
            some, chunk_runs = x[start:end], clip_runs(kept, start, end)
            z = logits if logits is not None else project(head, some, chunk_runs)
            z.sub_(normalisers[active[start:end], None]).exp_().mul_(-total[start:end, None])
            z.index_put_((row_of_pair[pair] - start, targets[pair]), grad[pair], accumulate=True)
            grad_x[start:end] = _backward_chunk(head, some, z, chunk_runs, gradients)
        if x is not hidden:
            grad_x = torch.zeros_like(hidden).index_copy_(0, active, grad_x)
        return grad_x, None, None, None, None, None, None


def _runs_of_rows(runs: Sequence[LoraRun], rows: Tensor) -> list[LoraRun]:
    """Runs over a selection of rows (rising), counted in the selection."""
    if not runs:
        return []
    bounds = torch.tensor([(r.run.start, r.run.end) for r in runs], device=rows.device)
    found = torch.searchsorted(rows, bounds).tolist()
    return [
        LoraRun(AdapterSpan(r.run.slot, low, high), r.a, r.b, r.scale)
        for r, (low, high) in zip(runs, found, strict=True)
        if high > low
    ]


def _backward_chunk(
    head: LoraLinear, x: Tensor, grad_logits: Tensor, runs: Sequence[LoraRun], gradients: PassGradients
) -> Tensor:
    """Gradient of `project` at one chunk: [rows, V] in wide dtype to [rows, H] in compute dtype."""
    grad = grad_logits.to(x.dtype)
    grad_x = torch.mm(grad, head.weight)
    for r in runs:
        g, some = r.rows(grad), r.rows(x)
        h = torch.mm(some, r.a.t()).mul_(r.scale)
        grad_h = torch.mm(g, r.b).mul_(r.scale)
        r.rows(grad_x).addmm_(grad_h, r.a)
        grad_a, grad_b = gradients.views(r.run.slot, head.name)
        add_product(grad_a, grad_h.t(), some)
        add_product(grad_b, g.t(), h)
    return grad_x
