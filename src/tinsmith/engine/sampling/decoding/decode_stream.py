"""From sequences that decode to the context of a pass, from step to step.

Most steps have the sequences of the step before, each with one token more. Then tables, positions and masks are moved
on by one, in place; only where sequences have come or gone are they made anew.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.sampling.cache.kv_cache import KVCache
from tinsmith.engine.sampling.cache.paged_attention import PagedPass
from tinsmith.engine.sampling.decoding.decode_rows import DecodePass, DecodeRows
from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.transfers import to_device

# Block tables have room for so many blocks more than the longest sequence has.
_MORE_BLOCKS = 16


class DecodeStream:
    """The decoding steps, each with what it has in common with the one before.

    Args:
        cache: where keys and values are kept.
        in_rows: whether steps read them from rows beside the cache.
    """

    def __init__(self, cache: KVCache, *, in_rows: bool) -> None:
        self._cache = cache
        self._in_rows = in_rows
        self._rows = DecodeRows(cache) if in_rows else None
        self._workspace = Workspace()
        self._sequences: list[Sequence] = []
        # What each sequence calls its blocks: one that gave way and came back has another list.
        self._blocks: list[list[int]] = []
        self._spans = adapter_spans((), ())
        self._starts = np.zeros(0, np.int64)  # keys of each in the cache
        self._tables = np.zeros((0, 0), np.int64)  # blocks of each

    def clear(self) -> None:
        """Give up what is kept for the next step, and its memory."""
        self.__init__(self._cache, in_rows=self._in_rows)

    def next(self, sequences: list[Sequence]) -> tuple[Tensor, ForwardContext]:
        """Return the newest token of each sequence, int64 [S], and the context of a pass over them.

        Args:
            sequences: all but the newest token of each is in the cache; equal adapters side by side.
        """
        follows = self._follows(sequences)
        if follows:
            self._starts += 1
            self._look_up_new_blocks()
        else:
            self._begin(sequences)
        device, size, starts = self._cache.device, self._cache.block_size, self._starts
        of_longest = int(starts.max()) // size + 1
        tables = torch.from_numpy(self._tables[:, :of_longest])
        cells = self._tables[np.arange(len(sequences)), starts // size] * size + starts % size
        context = ForwardContext(
            mode=Mode.DECODE,
            positions=to_device(starts, device),
            lengths=(1,) * len(sequences),
            spans=self._spans,
            paged=PagedPass(self._cache, starts.tolist(), self._side_by_side(follows, sequences, tables)),
            slot_mapping=to_device(cells, device),
            block_tables=to_device(tables, device, torch.int32),
            workspace=self._workspace,
        )
        return to_device([s.tokens[-1] for s in sequences], device), context

    def _follows(self, sequences: list[Sequence]) -> bool:
        if sequences != self._sequences:
            return False
        steps = zip(sequences, self._blocks, self._starts.tolist(), strict=True)
        return all([s.blocks is blocks and s.computed == start + 1 for s, blocks, start in steps])

    def _begin(self, sequences: list[Sequence]) -> None:
        self._sequences = sequences
        self._blocks = [s.blocks for s in sequences]
        self._spans = adapter_spans([s.group.slot for s in sequences], [1] * len(sequences))
        self._starts = np.array([s.computed for s in sequences], np.int64)
        counts = np.array([len(blocks) for blocks in self._blocks])
        self._tables = np.zeros((len(sequences), int(counts.max()) + _MORE_BLOCKS), np.int64)
        # Row by row, the leading places of each.
        self._tables[np.arange(self._tables.shape[1]) < counts[:, None]] = list(chain.from_iterable(self._blocks))

    def _look_up_new_blocks(self) -> None:
        size = self._cache.block_size
        for row in np.flatnonzero(self._starts % size == 0).tolist():
            number = int(self._starts[row]) // size
            if number == self._tables.shape[1]:
                self._tables = np.pad(self._tables, ((0, 0), (0, _MORE_BLOCKS)))
            self._tables[row, number] = self._blocks[row][number]

    def _side_by_side(self, follows: bool, sequences: ListLike[Sequence], tables: Tensor) -> DecodePass | None:
        if self._rows is None:
            return None
        found = self._rows.advance() if follows else None
        return found or self._rows.prepare(sequences, self._starts.tolist(), tables)
