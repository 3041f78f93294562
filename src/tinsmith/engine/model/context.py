"""The one object that travels beside the tensors of a forward pass.

Every pass is one stream of T tokens, sequence after sequence. The model code sees `input_ids [1, T]`; which tokens
belong together, whose adapter computes them and where their keys live is said here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from threading import get_ident
from typing import Protocol

import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import PassGradients, Slot
from tinsmith.engine.model.padded import NO_HEAD, Head, PaddedLayout
from tinsmith.engine.model.tiles.products import WHOLE, Products
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.transfers import to_device


class Mode(StrEnum):
    """What a pass is for.

    PACKED: whole sequences, no cache (training, and logprobs of whole sequences).
    PREFILL: prompts, or parts of prompts, whose keys and values go into the paged cache.
    DECODE: one token per sequence, keys and values from the paged cache.
    """

    PACKED = "packed"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class AdapterSpan:
    """Tokens [start, end) of the stream, computed with one adapter."""

    slot: Slot
    start: int
    end: int


def adapter_spans(slots: Sequence[Slot | None], lengths: Sequence[int]) -> tuple[AdapterSpan, ...]:
    """Return the spans of sequences that lie one after the other.

    Neighbours with the same adapter share a span: every LoRA layer pays a few small matmuls per span.

    Args:
        slots: adapter of each sequence, None for the base alone.
        lengths: tokens of each sequence.
    """
    spans: list[AdapterSpan] = []
    first = start = 0
    own: Slot | None = None
    for slot, length in zip(slots, lengths, strict=True):
        if slot is not own and length:
            if own is not None:
                spans.append(AdapterSpan(own, first, start))
            own, first = slot, start
        start += length
    return tuple(spans) if own is None else (*spans, AdapterSpan(own, first, start))


@dataclass(frozen=True, slots=True)
class BlockStorage:
    """Where a paged cache keeps keys and values, for who reads and writes them in place.

    Attributes:
        keys: of each layer, [blocks, block size, key heads, head dim].
        values: likewise.
        block_size: tokens in a block.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    block_size: int


class PagedAttention(Protocol):
    """Attention that keeps keys and values in a paged cache; the sampler brings it."""

    @property
    def storage(self) -> BlockStorage | None:
        """The cache; None where there is none."""
        ...

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        """Store the new keys and values and attend.

        Args:
            layer: index of the decoder layer.
            query: [T, query heads, head dim].
            key: [T, key heads, head dim], rotated.
            value: [T, key heads, head dim].
            scaling: factor on query·key.
            context: the pass.

        Returns:
            [T, query heads, head dim].
        """
        ...


@dataclass(slots=True)
class ForwardContext:
    """One forward pass.

    Attributes:
        mode: what the pass is for.
        positions: position of each token in its own sequence, int64 [T].
        lengths: tokens of each sequence in this stream; they sum to T.
        spans: which adapter computes which tokens, in stream order; tokens in no span go through the base alone.
        gradients: where the backward pass leaves adapter gradients; None where nothing is trained.
        paged: the paged cache's attention (PREFILL, DECODE); None in PACKED.
        slot_mapping: cell of the paged cache for each new key, int64 [T].
        block_tables: blocks of each sequence, int32 [S, blocks], padded with 0.
        heads: what each sequence has before its own `lengths`, as tokens of another one (PACKED); empty where no
            sequences share a head.
        products: how rows are multiplied with weights; the model's, see `ContextCell`.
        workspace: what passes like this one have in common (PREFILL, DECODE); None for a pass that is alone.
    """

    mode: Mode
    positions: Tensor
    lengths: tuple[int, ...]
    spans: tuple[AdapterSpan, ...] = ()
    gradients: PassGradients | None = None
    paged: PagedAttention | None = None
    slot_mapping: Tensor | None = None
    block_tables: Tensor | None = None
    heads: tuple[Head, ...] = ()
    products: Products = WHOLE
    workspace: Workspace | None = None
    # Both are the same in every layer, so that the first one that asks pays for all.
    _layout: PaddedLayout | None = field(default=None, init=False)
    _stretches: tuple[list[Slot | None], Tensor] | None = field(default=None, init=False)

    @property
    def layout(self) -> PaddedLayout:
        """How the sequences are padded for attention."""
        if self._layout is None:
            self._layout = PaddedLayout.of(self.lengths, self.positions.device, self.heads)
        return self._layout

    @property
    def stretches(self) -> tuple[list[Slot | None], Tensor]:
        """The whole stream cut by adapter: the adapter of each stretch, and where each ends (int64).

        Unlike spans, stretches leave no token out: those of the base alone have None for an adapter.
        """
        if self._stretches is None:
            slots: list[Slot | None] = []
            ends: list[int] = []
            for span in self.spans:
                if span.start > (ends[-1] if ends else 0):
                    slots.append(None)
                    ends.append(span.start)
                slots.append(span.slot)
                ends.append(span.end)
            tokens = sum(self.lengths)
            if not ends or ends[-1] < tokens:
                slots.append(None)
                ends.append(tokens)
            self._stretches = (slots, to_device(ends, self.positions.device))
        return self._stretches

    def fill_up(self) -> int:
        """Make the stream a multiple of a tile, by a last sequence that nobody asks about; return its length.

        Where gradients are wanted, every sequence gets a span of its own: their gradients are then added one by one, in
        their order, however they are spread over passes.
        """
        extra = -self.positions.shape[0] % self.products.tile
        if self.gradients is not None:
            self.spans = tuple(part for span in self.spans for part in self._by_sequence(span))
        if extra:
            self.positions = torch.cat([self.positions, torch.arange(extra, device=self.positions.device)])
            self.lengths = (*self.lengths, extra)
            self.heads = (*self.heads, NO_HEAD) if self.heads else ()
        return extra

    def _by_sequence(self, span: AdapterSpan) -> Iterator[AdapterSpan]:
        start = 0
        for length in self.lengths:
            if length and span.start <= start < span.end:
                yield AdapterSpan(span.slot, start, start + length)
            start += length


class ContextCell:
    """Holds the contexts of the passes that run; the swapped modules of one model share one cell.

    Args:
        products: how the model multiplies rows with weights, in every pass.
        native: whether what is no product may run in C, where there is a library.

    One pass at a time on each thread. Autograd recomputes and differentiates for an accelerator on threads of its own,
    which see the one pass that runs there; on a CPU it does so on the thread that asks.
    """

    __slots__ = ("_running", "native", "products")

    def __init__(self, products: Products = WHOLE, *, native: bool = False) -> None:
        self.products = products
        self.native = native
        self._running: dict[int, ForwardContext] = {}

    @property
    def current(self) -> ForwardContext:
        """The context of the running pass."""
        found = self._running.get(get_ident())
        if found is not None:
            return found
        if len(self._running) != 1:
            raise RuntimeError("no forward pass is running: call the model through BaseModel.hidden")
        return next(iter(self._running.values()))

    @contextmanager
    def use(self, context: ForwardContext) -> Iterator[None]:
        """Make `context` current on this thread for forward and backward of one pass."""
        thread = get_ident()
        if thread in self._running:
            raise RuntimeError("a forward pass of this model is already running")
        context.products = self.products
        self._running[thread] = context
        try:
            yield
        finally:
            del self._running[thread]
