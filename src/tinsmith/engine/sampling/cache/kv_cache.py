"""Keys and values of every layer in blocks of a few tokens, addressed by block tables."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.engine.free_memory import free_memory
from tinsmith.engine.model.context import BlockStorage
from tinsmith.engine.out_of_memory import size
from tinsmith.engine.transfers import to_device
from tinsmith.settings import Settings

# Where `kv_cache_mb` is silent. On a CPU storage grows with use, so the figure is a limit, or the share where less is
# free; on CUDA the rest of what is free is left to activations, which peak in a training pass.
_CPU_DEFAULT_MB = 1024
_DEVICE_SHARE = 0.6
# Storage of a CPU begins with so many blocks; from there it doubles, so that all copies together are no larger than it.
_FIRST_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token costs in the cache."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    def block_bytes(self, block_size: int) -> int:
        """Bytes of one block in all layers, keys and values."""
        return 2 * self.layers * block_size * self.kv_heads * self.head_dim * self.dtype.itemsize


def affordable_blocks(shape: KVShape, device: torch.device, settings: Settings) -> int:
    """Return how many blocks the settings grant: `kv_cache_mb`, or by default a share of the free device memory.

    Raises:
        ValueError: not even one block fits.
    """
    if settings.kv_cache_mb is not None:
        granted = settings.kv_cache_mb * 2**20
    else:
        granted = int(free_memory(device) * _DEVICE_SHARE)
        if device.type == "cpu":
            granted = min(granted, _CPU_DEFAULT_MB * 2**20)
    each = shape.block_bytes(settings.kv_block_size)
    if granted < each:
        raise ValueError(f"kv_cache_mb: got {granted / 2**20:.3g} MiB, expected at least {each / 2**20:.3g}, one block")
    return granted // each


class KVCache:
    """The storage: per layer one tensor of keys and one of values, each [blocks, block_size, kv_heads, head_dim].

    Block 0 stays zero: block tables are padded with it. On a CPU storage grows as ids are used; on an accelerator
    all of it is taken at first use, because growing would need the memory twice.

    Threads may store and gather at once, in cells of different sequences.
    """

    def __init__(self, shape: KVShape, block_size: int, num_blocks: int, device: torch.device) -> None:
        self.shape = shape
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.device = device
        self._room = 0
        self._keys = [self._blocks(0) for _ in range(shape.layers)]
        self._values = [self._blocks(0) for _ in range(shape.layers)]
        # Of each thread: the keys and values of one layer that it has gathered.
        self._gathered = threading.local()

    @property
    def storage(self) -> BlockStorage:
        """Where keys and values are now; a cache that grows moves them."""
        return BlockStorage(self._keys, self._values, self.block_size)

    @property
    def bytes_held(self) -> int:
        """Memory taken so far."""
        return 2 * self.shape.layers * self._keys[0].nbytes

    def prepare(self, blocks: Sequence[int]) -> None:
        """Make blocks that were just allocated ready: storage exists and holds zeros.

        Attention multiplies cells behind the end of a sequence by a weight of zero, which only works if they hold
        finite numbers, whatever the block's former owner computed.
        """
        if not blocks:
            return
        self._grow(max(blocks) + 1)
        index = to_device(blocks, self.device)
        for stored in (*self._keys, *self._values):
            stored.index_fill_(0, index, 0)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to) each; none is both."""
        if not pairs:
            return
        # Blocks of copies come from the same manager as others, but without passing `prepare`.
        self._grow(max(target for _, target in pairs) + 1)
        source, target = to_device(pairs, self.device).unbind(1)
        for stored in (*self._keys, *self._values):
            stored.index_copy_(0, target, stored.index_select(0, source))

    def store(self, layer: int, cells: Tensor, key: Tensor, value: Tensor) -> None:
        """Write keys and values of T tokens.

        Args:
            layer: index of the layer.
            cells: int64 [T], block * block_size + offset of each token.
            key: [T, kv_heads, head_dim]; value likewise.
        """
        self._keys[layer].flatten(0, 1).index_copy_(0, cells, key)
        self._values[layer].flatten(0, 1).index_copy_(0, cells, value)

    def gather(self, layer: int, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Read the blocks of S sequences; valid until this thread's next call.

        Args:
            layer: index of the layer.
            tables: block ids, integer [S, B].

        Returns:
            keys and values, each [S, B * block_size, kv_heads, head_dim].
        """
        count = tables.numel()
        # The same memory for all layers and steps, because fresh pages are what gathering costs most on a CPU.
        room: tuple[Tensor, Tensor] | None = getattr(self._gathered, "room", None)
        if room is None or room[0].shape[0] < count:
            # A quarter more than asked for: decoding asks for a little more every few steps.
            room = self._gathered.room = (self._blocks(count + count // 4), self._blocks(count + count // 4))
        flat = tables.flatten()
        sequences, blocks = tables.shape
        found = []
        # Whole blocks as rows, [blocks, block_size * kv_heads * head_dim]: one long copy each.
        for stored, held in zip((self._keys[layer], self._values[layer]), room, strict=True):
            out = held[:count].flatten(1)
            torch.index_select(stored.flatten(1), 0, flat, out=out)
            found.append(out.view(sequences, blocks * self.block_size, *stored.shape[2:]))
        return found[0], found[1]

    def _blocks(self, count: int) -> Tensor:
        shape = (count, self.block_size, self.shape.kv_heads, self.shape.head_dim)
        return torch.zeros(shape, dtype=self.shape.dtype, device=self.device)

    def _grow(self, wanted: int) -> None:
        """Make room for ids below `wanted`, at least twice the present room where there is memory for it.

        Raises:
            MemoryError: there is none for what is wanted; the figures are in it. What is there stays as it is.
        """
        if wanted <= self._room:
            return
        room = self._affordable(wanted)
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                # Some have grown already where memory ran out before all had.
                if old.shape[0] < room:
                    tensors[layer] = self._blocks(room)
                    tensors[layer][: old.shape[0]] = old
        self._room = room

    def _affordable(self, wanted: int) -> int:
        limit = self.num_blocks + 1
        rooms = (min(limit, max(wanted, 2 * self._room, _FIRST_BLOCKS)), wanted)
        if self.device.type != "cpu":
            rooms = (limit,)
        needed = free = 0
        for room in rooms:
            # A layer's old and new tensor exist together for a moment.
            needed = self._bytes(room - self._room) + self._bytes(self._room) // (2 * self.shape.layers)
            free = free_memory(self.device, needed)
            if needed <= free:
                return room
        raise MemoryError(
            f"the KV cache needs {size(needed)} more for {rooms[-1] - 1} blocks, {size(free)} are free on "
            f"{self.device}: with a TINSMITH_KV_CACHE_MB below {self._bytes(self.num_blocks) // 2**20} requests wait "
            "for each other"
        )

    def _bytes(self, blocks: int) -> int:
        return blocks * self.shape.block_bytes(self.block_size)
