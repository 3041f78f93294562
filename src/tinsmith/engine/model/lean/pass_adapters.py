"""The adapters of a pass without gradients: low-rank products of many adapters in a few batched calls.

A layer with one adapter pays two small products. With a span each, eight adapters would pay sixteen whose rows are too
few to keep a processor busy, so spans are multiplied side by side: [adapters, rows, in] times their stacked A, then
their stacked B (as in Punica's SGMV, Chen et al. 2023, arXiv:2310.18547, section 4, with equal segments).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from tinsmith.engine.adapters.layouts import ALPHA
from tinsmith.engine.adapters.slots import Pool
from tinsmith.engine.model.context import AdapterSpan, ForwardContext

# Spans are padded to the longest while that at most doubles their rows.
_MOST_PADDING = 2.0


@dataclass(frozen=True, slots=True)
class _Alone:
    """One span."""

    span: AdapterSpan

    def add(self, y: Tensor, x: Tensor, names: tuple[str, ...], widths: tuple[int, ...]) -> None:
        slot = self.span.slot
        factors = slot.pool.factors(names)
        if factors is None:
            return
        row, rows = slot.index, slice(self.span.start, self.span.end)
        # As in `lora.add_delta`, operation by operation: in bfloat16 another order would round to other numbers.
        h = torch.mm(x[rows], factors.a[row].t()).mul_(ALPHA / slot.rank)  # [rows, targets * R]
        parts = zip(y[rows].split(widths, 1), h.split(factors.rank, 1), factors.b, strict=True)
        for out, inner, b in parts:
            out.addmm_(inner, b[row].t())


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """Spans of one pool, each padded to the longest.

    Attributes:
        pool: of their adapters.
        slots: rows of the pool: a slice where they are evenly spaced, which copies no weight; else int64 [n].
        scales: factor on B·A·x of each, [n, 1, 1].
        start: the first token; with those of all spans they are neighbours.
        end: behind the last token.
        source: token at each place of the padded batch, int64 [n * longest]; None where nothing is padded.
        places: place of each token in the padded batch, int64 [tokens]; None likewise.
    """

    pool: Pool
    slots: slice | Tensor
    scales: Tensor
    start: int
    end: int
    source: Tensor | None
    places: Tensor | None

    def add(self, y: Tensor, x: Tensor, names: tuple[str, ...], widths: tuple[int, ...]) -> None:
        factors = self.pool.factors(names)
        if factors is None:
            return
        some = x[self.start : self.end] if self.source is None else x.index_select(0, self.source)
        h = torch.bmm(some.view(self.scales.shape[0], -1, x.shape[1]), factors.a[self.slots].transpose(1, 2))
        h.mul_(self.scales)  # [n, longest, targets * R]
        parts = zip(y[self.start : self.end].split(widths, 1), h.split(factors.rank, 2), factors.b, strict=True)
        for out, inner, b in parts:
            delta = torch.bmm(inner, b[self.slots].transpose(1, 2)).flatten(0, 1)
            out.add_(delta if self.places is None else delta.index_select(0, self.places))


class PassAdapters:
    """What the adapters of one pass add to its linear layers.

    Args:
        spans: of the pass, in stream order.
        dtype: compute dtype.
        device: of the pass.
    """

    def __init__(self, spans: Sequence[AdapterSpan], dtype: torch.dtype, device: torch.device) -> None:
        self._parts: list[_Alone | _SideBySide] = []
        for pool, some in groupby(spans, key=lambda span: span.slot.pool):
            group = list(some)
            # In bfloat16 each span by itself, because a sum of two rounded numbers is not what the learner computes.
            if dtype.itemsize >= 4 and _pays(group):
                self._parts.append(_side_by_side(pool, group, dtype, device))
            else:
                self._parts.extend(map(_Alone, group))

    @classmethod
    def of(cls, context: ForwardContext) -> PassAdapters:
        """Take the adapters of a pass."""
        if not context.spans:
            return cls((), torch.float32, context.positions.device)
        return cls(context.spans, context.spans[0].slot.pool.weights.dtype, context.positions.device)

    def add(self, y: Tensor, x: Tensor, names: tuple[str, ...], widths: tuple[int, ...]) -> None:
        """Add each adapter's scaled B·A·x to its tokens of `y`, in place.

        Args:
            y: [T, sum of outputs].
            x: [T, in].
            names: of the linear layers that `y` is the output of, see `Pool.factors`.
            widths: outputs of each.
        """
        for part in self._parts:
            part.add(y, x, names, widths)


def _pays(spans: list[AdapterSpan]) -> bool:
    """Whether spans of one pool are computed side by side."""
    lengths = [span.end - span.start for span in spans]
    gapless = all(a.end == b.start for a, b in pairwise(spans))
    return len(spans) > 1 and gapless and max(lengths) * len(lengths) <= _MOST_PADDING * sum(lengths)


def _side_by_side(pool: Pool, spans: list[AdapterSpan], dtype: torch.dtype, device: torch.device) -> _SideBySide:
    lengths = [span.end - span.start for span in spans]
    longest = max(lengths)
    source = places = None
    if min(lengths) < longest:
        # What is missing to the longest repeats a span's last token; nobody reads what comes of it.
        tokens = [min(span.start + i, span.end - 1) for span in spans for i in range(longest)]
        source = torch.tensor(tokens, device=device)
        kept = [n * longest + i for n, length in enumerate(lengths) for i in range(length)]
        places = torch.tensor(kept, device=device)
    scales = torch.tensor([ALPHA / span.slot.rank for span in spans], dtype=dtype, device=device)[:, None, None]
    rows = _rows([span.slot.index for span in spans], device)
    return _SideBySide(pool, rows, scales, spans[0].start, spans[-1].end, source, places)


def _rows(rows: list[int], device: torch.device) -> slice | Tensor:
    step = rows[1] - rows[0]
    if step > 0 and rows == list(range(rows[0], rows[-1] + 1, step)):
        return slice(rows[0], rows[-1] + 1, step)
    return torch.tensor(rows, device=device)
