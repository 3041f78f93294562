"""From a plan to tensors and back to logits: the forward passes of the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as ListLike

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.head.logprobs import clip_spans, head_spans, project
from tinsmith.engine.sampling.cache.kv_cache import KVCache
from tinsmith.engine.sampling.cache.paged_attention import PagedPass
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.engine.sampling.schedule import Slice
from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.transfers import to_device


def decode(base: BaseModel, stream: DecodeStream, sequences: list[Sequence], rows: int) -> Iterator[Tensor]:
    """Compute the newest token of each sequence; yield the logits behind them, so many rows at once.

    Args:
        base: what computes.
        stream: the steps of these sequences.
        sequences: all but the newest token of each is in the cache.
        rows: how many sequences' logits exist at once.

    Yields:
        [at most `rows`, V], wide dtype.
    """
    ids, context = stream.next(sequences)
    with torch.no_grad(), base.cell.use(context):
        hidden = base.hidden(ids, context)
    if base.native is not None and base.native.takes(context) and len(sequences) <= rows:
        yield base.native.logits(hidden, context)
        return
    spans = head_spans(base.head, context)
    for start in range(0, len(sequences), rows):
        end = min(start + rows, len(sequences))
        with torch.no_grad():
            logits = project(base.head, hidden[start:end], clip_spans(spans, start, end))
        yield logits


class PrefillPass:
    """Computes parts of prompts, and the logits behind any of their tokens.

    Args:
        base: what computes.
        cache: where keys and values go; the slices' blocks are ready.
        slices: in an order in which equal adapters are neighbours.
    """

    def __init__(self, base: BaseModel, cache: KVCache, slices: ListLike[Slice]) -> None:
        self._base = base
        self._slots = [s.sequence.group.slot for s in slices]
        self._lengths = tuple(s.end - s.start for s in slices)
        self._ends = np.cumsum(self._lengths)
        ids, context = self._pack(cache, slices)
        with torch.no_grad(), base.cell.use(context):
            self._hidden = base.hidden(ids, context)

    def _pack(self, cache: KVCache, slices: ListLike[Slice]) -> tuple[Tensor, ForwardContext]:
        device, size = self._base.device, cache.block_size
        width = max(-(-s.end // size) for s in slices)  # blocks that the longest sequence needs
        tables = np.zeros((len(slices), width), np.int64)
        for row, s in enumerate(slices):
            blocks = s.sequence.blocks[:width]
            tables[row, : len(blocks)] = blocks
        starts = np.array([s.start for s in slices])
        owners = np.repeat(np.arange(len(slices)), self._lengths)  # sequence of each token, [T]
        # Rising from a slice's start: the token at place i of the stream is number i - (stream start) + start.
        positions = np.arange(self._ends[-1]) - np.repeat(self._ends - self._lengths - starts, self._lengths)
        # Cell of a position: its block, looked up in its sequence's table, and its offset there.
        cells = tables[owners, positions // size] * size + positions % size
        ids = [token for s in slices for token in s.sequence.tokens[s.start : s.end]]
        context = ForwardContext(
            mode=Mode.PREFILL,
            positions=to_device(positions, device),
            lengths=self._lengths,
            spans=adapter_spans(self._slots, self._lengths),
            paged=PagedPass(cache, starts.tolist()),
            slot_mapping=to_device(cells, device),
            block_tables=to_device(tables, device, torch.int32),
        )
        return to_device(ids, device), context

    def last_logits(self, indices: ListLike[int]) -> Tensor:
        """Return the logits behind the last token of some slices, [len(indices), V], in the wide dtype."""
        rows = [int(self._ends[i]) - 1 for i in indices]
        return self._logits(rows, [self._slots[i] for i in indices], [1] * len(indices))

    def inner_logits(self, index: int, offset: int, count: int) -> Tensor:
        """Return the logits behind tokens [offset, offset + count) of one slice, [count, V], in the wide dtype."""
        first = int(self._ends[index]) - self._lengths[index] + offset
        return self._logits(range(first, first + count), [self._slots[index]], [count])

    def _logits(self, rows: ListLike[int], slots: ListLike[Slot | None], lengths: ListLike[int]) -> Tensor:
        # Only rows whose logits are wanted are projected: [rows, V] is the most expensive thing here.
        hidden = self._hidden
        if len(rows) < hidden.shape[0]:
            hidden = hidden[to_device(list(rows), hidden.device)]
        # The picked rows are a stream of their own to the head, which asks nothing of a context but its spans.
        context = ForwardContext(Mode.PACKED, hidden, tuple(lengths), adapter_spans(slots, lengths))
        native = self._base.native
        if native is not None and native.projects(len(rows)):
            return native.logits(hidden, context)
        with torch.no_grad():
            return project(self._base.head, hidden, head_spans(self._base.head, context))
