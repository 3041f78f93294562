"""The adapters of a pass without gradients: low-rank products of many adapters in a few batched calls.

A layer with one adapter pays two small products. With a span each, eight adapters would pay sixteen whose rows are too
few to keep a processor busy, so spans are multiplied side by side: [adapters, rows, in] times their stacked A, then
their stacked B (as in Punica's SGMV, Chen et al. 2023, arXiv:2310.18547, section 4, with equal segments).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol, Self

import torch
from torch import Tensor

from tinsmith.engine.adapters.layouts import ALPHA
from tinsmith.engine.adapters.slots import Pool
from tinsmith.engine.model.context import AdapterSpan, ForwardContext
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.transfers import to_device

# Spans are padded to the longest while that at most doubles their rows.
_MOST_PADDING = 2.0
# So many bytes of adapters that are copied to lie side by side are kept from step to step. Where there are more, they
# are copied layer by layer each time.
_MOST_KEPT = 256 << 20


class Delta(Protocol):
    """What some of a pass's adapters add to one product."""

    def add(self, x: Tensor) -> None:
        """Add to the output that it is bound to, in place.

        Args:
            x: the product's input, [T, in].
        """
        ...


@dataclass(frozen=True, slots=True)
class Output:
    """What a delta is added to.

    Attributes:
        y: the product's output, [T, sum of outputs].
        by_columns: whether the tokens of one output lie one behind the other, and not the outputs of one token.
        names: of the linear layers that it is the output of, see `Pool.factors`.
        widths: outputs of each.
    """

    y: Tensor
    by_columns: bool
    names: tuple[str, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """What B·A·x is multiplied by, in the product itself where that changes no digit: by a power of two.

    Attributes:
        alpha: factor of the last product.
        factor: on A·x beforehand, a number or [n, 1, 1] of n adapters, float32 or wider: not rounded, as a number would
            not be. None for 1.
    """

    alpha: float
    factor: float | Tensor | None

    @classmethod
    def of(cls, scales: Sequence[float], dtype: torch.dtype, device: torch.device | None = None) -> Self:
        """Return that of one adapter, or of several on a device; the dtype is the pass's."""
        first = scales[0]
        if len(set(scales)) == 1 and math.frexp(first)[0] == 0.5:
            return cls(first, None)
        if device is None:
            return cls(1.0, first)
        return cls(1.0, to_device(scales, device, torch.promote_types(torch.float32, dtype))[:, None, None])


@dataclass(frozen=True, slots=True)
class _AloneDelta:
    rows: slice | None
    a: Tensor  # [in, targets * R]
    scale: _Scale
    h: Tensor  # [rows, targets * R]
    parts: list[tuple[Tensor, Tensor, Tensor]]  # output [rows, out], part of h [rows, R] and B [R, out] of each layer
    by_columns: bool  # see `Output`

    def add(self, x: Tensor) -> None:
        # As in `lora.add_delta`, operation by operation: in bfloat16 another order would round to other numbers.
        torch.mm(x if self.rows is None else x[self.rows], self.a, out=self.h)
        if self.scale.factor is not None:
            self.h.mul_(self.scale.factor)
        alpha = self.scale.alpha
        for out, inner, b in self.parts:
            if self.by_columns:
                out.t().addmm_(b.t(), inner.t(), alpha=alpha)
            else:
                out.addmm_(inner, b, alpha=alpha)


@dataclass(frozen=True, slots=True)
class _Alone:
    """One span."""

    span: AdapterSpan

    def bind(self, output: Output, workspace: Workspace) -> Delta | None:
        slot = self.span.slot
        factors = slot.pool.factors(output.names)
        if factors is None:
            return None
        row, rows = slot.index, slice(self.span.start, self.span.end)
        whole = rows.stop - rows.start == output.y.shape[0]
        a = factors.a[row].t()
        h = workspace.room("hidden of an adapter", (rows.stop - rows.start, a.shape[1]), output.y)
        outs = output.y[rows].split(output.widths, 1)
        bs = (b[row].t() for b in factors.b)
        parts = list(zip(outs, h.split(factors.rank, 1), bs, strict=True))
        scale = _Scale.of([ALPHA / slot.rank], h.dtype)
        return _AloneDelta(None if whole else rows, a, scale, h, parts, output.by_columns)


@dataclass(frozen=True, slots=True)
class _SideBySideDelta:
    spans: _SideBySide
    # Of the adapters: A [n, in, targets * R] and the layers' B [n, R, out].
    weights: Callable[[], tuple[Tensor, list[Tensor]]]
    h: Tensor  # [n, longest, targets * R]
    # Each layer's output and part of h: [n, longest, out], or [tokens, out] where spans are padded; [n, longest, R].
    parts: list[tuple[Tensor, Tensor]]
    by_columns: bool  # see `Output`
    # Where products go before they are added, [n, longest, out] for each layer; None where they are added at once.
    products: list[Tensor] | None

    def add(self, x: Tensor) -> None:
        s, (a, bs) = self.spans, self.weights()
        some = x[s.start : s.end]
        if s.source is not None:
            some = some.index_select(0, s.source)
        torch.bmm(some.view(a.shape[0], -1, a.shape[1]), a, out=self.h)
        if s.scale.factor is not None:
            self.h.mul_(s.scale.factor)
        alpha = s.scale.alpha
        for i, ((out, inner), b) in enumerate(zip(self.parts, bs, strict=True)):
            if self.products is not None:
                out.add_(torch.bmm(inner, b, out=self.products[i]), alpha=alpha)
            elif s.source is None or s.places is None:
                if self.by_columns:
                    out.mT.baddbmm_(b.mT, inner.mT, alpha=alpha)
                else:
                    out.baddbmm_(inner, b, alpha=alpha)
            else:
                # Not a product that is then added: in bfloat16 that would round twice, where the learner rounds once.
                padded = out.index_select(0, s.source).view(*inner.shape[:2], -1)
                out.copy_(padded.baddbmm_(inner, b, alpha=alpha).flatten(0, 1).index_select(0, s.places))


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """Spans of one pool, each padded to the longest.

    Attributes:
        pool: of their adapters.
        count: of the spans.
        slots: rows of the pool: a slice where they are evenly spaced, else int64 [n], which makes a copy.
        dense: whether the adapters' matrices have to lie one behind the other, which makes a copy, too.
        scale: factor on B·A·x of each.
        start: the first token; with those of all spans they are neighbours.
        end: behind the last token.
        source: token at each place of the padded batch, counted from `start`, int64 [n * longest]; None where nothing
            is padded.
        places: place of each token in the padded batch, int64 [tokens]; None likewise.
    """

    pool: Pool
    count: int
    slots: slice | Tensor
    dense: bool
    scale: _Scale
    start: int
    end: int
    source: Tensor | None
    places: Tensor | None

    def bind(self, output: Output, workspace: Workspace) -> Delta | None:
        factors = self.pool.factors(output.names)
        if factors is None:
            return None
        count = self.count
        longest = (self.end - self.start if self.source is None else self.source.shape[0]) // count
        h = workspace.room("hidden of adapters", (count, longest, factors.a.shape[1]), output.y)
        outs = output.y[self.start : self.end].split(output.widths, 1)
        if self.places is None:
            outs = [out.view(count, longest, -1) for out in outs]

        def weights() -> tuple[Tensor, list[Tensor]]:
            a, *bs = (pooled[self.slots] for pooled in (factors.a, *factors.b))
            if self.dense:
                a, *bs = (picked.contiguous() for picked in (a, *bs))
            return a.transpose(1, 2), [b.transpose(1, 2) for b in bs]

        copies = self.dense or not isinstance(self.slots, slice)
        if not copies or count * self.pool.slot_bytes <= _MOST_KEPT:
            weights = _Kept(self.pool.weights, weights)
        products = None
        if self.places is None and len(outs) > 1 and output.y.dtype.itemsize >= 4:
            # Into a part of a wider output torch adds one adapter's product after the other. In bfloat16 it has to,
            # since a sum of two rounded numbers is not what the learner computes.
            products = [workspace.room(f"product {i}", tuple(out.shape), out) for i, out in enumerate(outs)]
        parts = list(zip(outs, h.split(factors.rank, 2), strict=True))
        return _SideBySideDelta(self, weights, h, parts, output.by_columns, products)


class _Kept:
    """Views or copies of a pool's weights, made anew when the pool was written to."""

    def __init__(self, pooled: Tensor, make: Callable[[], tuple[Tensor, list[Tensor]]]) -> None:
        self._pooled, self._make = pooled, make
        self._version = -1
        self._made: tuple[Tensor, list[Tensor]]

    def __call__(self) -> tuple[Tensor, list[Tensor]]:
        if self._version != self._pooled._version:
            self._version, self._made = self._pooled._version, self._make()
        return self._made


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
            if _pays(group):
                self._parts.append(_side_by_side(pool, group, dtype, device))
            else:
                self._parts.extend(map(_Alone, group))

    def bind(self, output: Output, workspace: Workspace) -> list[Delta]:
        """Return what adds each adapter's scaled B·A·x to its tokens of an output."""
        deltas = (part.bind(output, workspace) for part in self._parts)
        return [delta for delta in deltas if delta is not None]


def adapters_key(context: ForwardContext) -> tuple[object, ...]:
    """Return what two passes have in common whose adapters act alike: on the same tokens, from the same memory."""
    return tuple((_Same(s.slot.pool.weights), s.slot.index, s.slot.rank, s.start, s.end) for s in context.spans)


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """Equal to what holds the very same tensor: pools that grow or shrink move to another one."""

    tensor: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


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
        first = spans[0].start
        tokens = [min(span.start + i, span.end - 1) - first for span in spans for i in range(longest)]
        source = to_device(tokens, device)
        kept = [n * longest + i for n, length in enumerate(lengths) for i in range(length)]
        places = to_device(kept, device)
    scale = _Scale.of([ALPHA / span.slot.rank for span in spans], dtype, device)
    rows = _rows([span.slot.index for span in spans], device)
    # Of what lies apart torch's products of bfloat16 on a CPU would make a copy in each call.
    dense = dtype.itemsize < 4 and device.type == "cpu"
    return _SideBySide(pool, len(spans), rows, dense, scale, spans[0].start, spans[-1].end, source, places)


def _rows(rows: list[int], device: torch.device) -> slice | Tensor:
    step = rows[1] - rows[0]
    if step > 0 and rows == list(range(rows[0], rows[-1] + 1, step)):
        return slice(rows[0], rows[-1] + 1, step)
    return to_device(rows, device)
