"""Keys and values of sequences that decode, side by side, so that a step appends to them instead of gathering them.

Blocks are where keys and values are kept: shared, found again, given up. But a step that reads blocks has to gather
them first, and on a CPU that copy costs as much as the attention itself. So each sequence that decodes has a row
beside its blocks, [key heads, room, head dim], filled once; from then on each token is written to both, and a step
reads the rows in place as one batch of matrices. A sequence that ends leaves a hole, which the next newcomer fills.
Where holes and short rows make a step read far more than it needs, rows are dealt anew, which costs what one gathering
step costs.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.sampling.cache.kv_cache import KVCache
from tinsmith.engine.sampling.sequence import Sequence

# Rows are dealt anew when a step reads more than this times the keys that it needs, unless that is little anyway.
_MOST_READ = 1.5
_FREE_KEYS = 2048
# Rows have room for so many tokens more than the longest sequence has.
_ROOM = 64
# The part of the cache's own size that rows may take beside it.
_SHARE = 0.5


@dataclass(slots=True)
class DecodePass:
    """One decoding step over rows, and from step to step the next one of the same sequences.

    Attributes:
        keys: of each layer, [rows * key heads, room, head dim].
        values: likewise.
        cells: where the new keys go in a layer, int64 [S * key heads].
        rows: row of each sequence of the stream, int64 [S]; None where the stream's order is the rows'.
        room_mask: what is added to scores, [rows * key heads, 1, room].
        mask: as far as the longest sequence reaches, [rows * key heads, 1, longest].
    """

    keys: list[Tensor]
    values: list[Tensor]
    cells: Tensor
    rows: Tensor | None
    room_mask: Tensor
    mask: Tensor

    def advance(self) -> None:
        """Make the next step of it: each sequence has one token more."""
        self.cells += 1
        self.room_mask.view(-1).index_fill_(0, self.cells, 0.0)
        self.mask = self.room_mask[:, :, : self.mask.shape[-1] + 1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Write the new keys and values, one per sequence, and attend; shapes as in `context.PagedAttention`."""
        _, heads, width = query.shape
        keys, values = self.keys[layer], self.values[layer]
        keys.view(-1, width).index_copy_(0, self.cells, key.reshape(-1, width))
        values.view(-1, width).index_copy_(0, self.cells, value.reshape(-1, width))
        key_heads, longest = key.shape[1], self.mask.shape[-1]
        count = keys.shape[0] // key_heads
        if self.rows is not None:
            query = query.new_zeros(count, heads, width).index_copy_(0, self.rows, query)
        # Query heads that share a key head are several queries of it: no key is copied.
        q = query.reshape(count * key_heads, heads // key_heads, width)
        k, v = keys[:, :longest], values[:, :longest]
        if q.dtype.itemsize < 4:
            # Not by hand: scores would be rounded to eight bits.
            mask = self.mask.expand(-1, q.shape[1], -1)
            mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], mask[None], scale=scaling)[0]
        else:
            weights = torch.baddbmm(self.mask, q, k.transpose(1, 2), alpha=scaling).softmax(-1)
            mixed = torch.bmm(weights, v)
        mixed = mixed.view(count, heads, width)
        return mixed if self.rows is None else mixed.index_select(0, self.rows)


class DecodeRows:
    """The rows, from step to step.

    Args:
        cache: whose blocks rows are filled from.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._rows: list[Sequence | None] = []
        self._place: dict[Sequence, int] = {}
        # Keys of each sequence that its row holds.
        self._held: dict[Sequence, int] = {}
        self._room = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        # The last step that was prepared, with its sequences, and how many have followed.
        self._last: DecodePass | None = None
        self._sequences: ListLike[Sequence] = ()
        self._followed = 0

    def clear(self) -> None:
        """Give up all rows and their memory."""
        self.__init__(self._cache)

    def advance(self) -> DecodePass | None:
        """Make the next step of the last one's sequences; None where they have to be prepared."""
        if self._last is None or self._last.mask.shape[-1] == self._room:
            return None
        self._last.advance()
        self._followed += 1
        return self._last

    def prepare(self, sequences: ListLike[Sequence], starts: ListLike[int], tables: Tensor) -> DecodePass | None:
        """Make one step ready; None where rows would take too much memory.

        Args:
            sequences: of the stream, each with one new token.
            starts: keys that each has in the cache.
            tables: block ids of each, int64 [S, blocks].
        """
        for sequence in self._sequences:
            self._held[sequence] += self._followed
        self._sequences, self._followed = (), 0
        longest, needed = max(starts) + 1, sum(starts) + len(starts)
        # Where lengths differ much, blocks are gathered in parts of similar length.
        fits = len(sequences) * longest <= max(_FREE_KEYS, _MOST_READ * needed)
        if not fits or not (self._seat(sequences, longest, needed) or self._deal(sequences, longest)):
            self.clear()
            return None
        missing = [i for i, s in enumerate(sequences) if self._held.get(s) != starts[i]]
        if missing:
            self._fill([self._place[sequences[i]] for i in missing], tables[missing])
        self._held.update(zip(sequences, (start + 1 for start in starts), strict=True))
        self._sequences = sequences
        self._last = self._pass(sequences, starts, longest)
        return self._last

    def _seat(self, sequences: ListLike[Sequence], longest: int, needed: int) -> bool:
        """Give every sequence a row, those of sequences that are not in this step if need be; False where to deal."""
        if longest > self._room or len(self._rows) < len(sequences):
            return False
        if len(self._rows) * longest > max(_FREE_KEYS, _MOST_READ * needed):
            return False
        here = set(sequences)
        newcomers = [s for s in sequences if s not in self._place]
        holes = (row for row, s in enumerate(self._rows) if s is None or s not in here)
        for newcomer, row in zip(newcomers, holes, strict=False):
            self._leave(row)
            self._rows[row], self._place[newcomer] = newcomer, row
        return True

    def _leave(self, row: int) -> None:
        before = self._rows[row]
        if before is not None:
            del self._place[before]
            self._held.pop(before, None)

    def _deal(self, sequences: ListLike[Sequence], longest: int) -> bool:
        """Give rows to these sequences alone, in the stream's order; False where they would take too much memory."""
        shape, cache = self._cache.shape, self._cache
        room = -(-(longest + _ROOM) // _ROOM) * _ROOM
        size = (len(sequences) * shape.kv_heads, room, shape.head_dim)
        taken = 2 * shape.layers * torch.Size(size).numel() * shape.dtype.itemsize
        if taken > _SHARE * cache.num_blocks * shape.block_bytes(cache.block_size):
            return False
        if not self._keys or self._keys[0].shape != size:
            self._keys, self._values = [], []  # first, so that old and new are not held together
            self._keys = [torch.zeros(size, dtype=shape.dtype) for _ in range(shape.layers)]
            self._values = [torch.zeros(size, dtype=shape.dtype) for _ in range(shape.layers)]
        self._room = room
        self._rows = list(sequences)
        self._place = {s: row for row, s in enumerate(sequences)}
        self._held = {}
        return True

    def _fill(self, rows: list[int], tables: Tensor) -> None:
        """Copy what blocks hold into rows; what is behind it becomes zero, whatever the row's last owner computed."""
        cache = self._cache
        index = torch.tensor(rows)
        length = min(tables.shape[1] * cache.block_size, self._room)
        for layer, stored in enumerate(zip(self._keys, self._values, strict=True)):
            for target, found in zip(stored, cache.gather(layer, tables), strict=True):
                rows_of = target.view(-1, cache.shape.kv_heads, *target.shape[1:])  # [rows, heads, room, D]
                fresh = rows_of.new_zeros(len(rows), *rows_of.shape[1:])
                fresh[:, :, :length] = found[:, :length].transpose(1, 2)
                rows_of.index_copy_(0, index, fresh)

    def _pass(self, sequences: ListLike[Sequence], starts: ListLike[int], longest: int) -> DecodePass:
        heads = self._cache.shape.kv_heads
        places = np.array([self._place[s] for s in sequences])
        cells = (places[:, None] * heads + np.arange(heads)) * self._room + np.array(starts)[:, None]
        # A hole sees its first key, which is finite or its own affair.
        seen = np.ones(len(self._rows), np.int64)
        seen[places] = np.array(starts) + 1
        hidden = torch.from_numpy(np.arange(self._room) >= seen[:, None]).repeat_interleave(heads, 0)[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._cache.shape.dtype).masked_fill_(hidden, -torch.inf)
        in_order = len(places) == len(self._rows) and bool((places == np.arange(len(places))).all())
        rows = None if in_order else torch.from_numpy(places)
        return DecodePass(
            self._keys, self._values, torch.from_numpy(cells.reshape(-1)), rows, mask, mask[:, :, :longest]
        )
