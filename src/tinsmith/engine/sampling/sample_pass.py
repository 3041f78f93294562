"""From a plan to tensors and back to logits: one forward pass of the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.head.logprobs import head_spans, project
from tinsmith.engine.sampling.decode_rows import DecodeRows
from tinsmith.engine.sampling.kv_cache import KVCache
from tinsmith.engine.sampling.paged_attention import PagedPass
from tinsmith.engine.sampling.schedule import Slice


class SamplePass:
    """Computes slices of sequences and the logits behind any of their tokens.

    Args:
        base: what computes.
        cache: where keys and values go; the slices' blocks are ready.
        slices: in an order in which equal adapters are neighbours.
        decode: whether each slice is one token of a sequence whose other tokens are in the cache.
        rows: where a decoding pass reads keys and values; None where it gathers them from the cache.
    """

    def __init__(
        self, base: BaseModel, cache: KVCache, slices: Sequence[Slice], decode: bool, rows: DecodeRows | None = None
    ) -> None:
        self._base = base
        self._slots = [s.sequence.group.slot for s in slices]
        self._lengths = tuple(s.end - s.start for s in slices)
        self._ends = np.cumsum(self._lengths)
        self._decode = decode
        ids, context = self._pack(cache, slices, rows if decode else None)
        with torch.no_grad(), base.cell.use(context):
            self._hidden = base.hidden(ids, context)

    def _pack(self, cache: KVCache, slices: Sequence[Slice], rows: DecodeRows | None) -> tuple[Tensor, ForwardContext]:
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
        sequences = [s.sequence for s in slices]
        side_by_side = None if rows is None else rows.prepare(sequences, starts.tolist(), torch.from_numpy(tables))
        context = ForwardContext(
            mode=Mode.DECODE if self._decode else Mode.PREFILL,
            positions=torch.from_numpy(positions).to(device),
            lengths=self._lengths,
            spans=adapter_spans(self._slots, self._lengths),
            paged=PagedPass(cache, starts.tolist(), side_by_side),
            slot_mapping=torch.from_numpy(cells).to(device),
            block_tables=torch.from_numpy(tables.astype(np.int32)).to(device),
            context_lens=torch.tensor([s.end for s in slices], dtype=torch.int32, device=device),
        )
        return torch.tensor(ids, device=device), context

    def last_logits(self, indices: Sequence[int]) -> Tensor:
        """Return the logits behind the last token of some slices, [len(indices), V], in the wide dtype."""
        rows = [int(self._ends[i]) - 1 for i in indices]
        return self._logits(rows, [self._slots[i] for i in indices], [1] * len(indices))

    def inner_logits(self, index: int, offset: int, count: int) -> Tensor:
        """Return the logits behind tokens [offset, offset + count) of one slice, [count, V], in the wide dtype."""
        first = int(self._ends[index]) - self._lengths[index] + offset
        return self._logits(range(first, first + count), [self._slots[index]], [count])

    def _logits(self, rows: Sequence[int], slots: Sequence[Slot | None], lengths: Sequence[int]) -> Tensor:
        # Only rows whose logits are wanted are projected: [rows, V] is the most expensive thing in decoding.
        hidden = self._hidden
        if len(rows) < hidden.shape[0]:
            hidden = hidden[torch.tensor(rows, device=hidden.device)]
        # The picked rows are a stream of their own to the head, which asks nothing of a context but its spans.
        context = ForwardContext(Mode.PACKED, hidden, tuple(lengths), adapter_spans(slots, lengths))
        with torch.no_grad():
            return project(self._base.head, hidden, head_spans(self._base.head, context))
