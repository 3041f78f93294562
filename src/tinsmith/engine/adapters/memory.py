"""Where adapters are: those used last on the device, within a budget, the others in host memory until they are used.

What moves is the exact bits: of a training state master, gradient and moments, of weights to sample from the weights.
The compute copy beside a training state is made again from the master, which gives the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from itertools import count
from threading import RLock
from typing import TypeVar

import torch
from torch import Tensor

from tinsmith.engine.adapters.heap import Heap
from tinsmith.engine.adapters.slots import Layout, Pool, Slot, Target, bucket_of, targets_for
from tinsmith.types.errors import UserError
from tinsmith.types.params import LoraConfig

T = TypeVar("T")


class SlotMemory:
    """All slots of one base model. `free` and `read` may be called from any thread, all else from the engine's.

    Args:
        targets: weights of the base that adapters can act on.
        dtype: compute dtype.
        device: where passes compute.
        budget: bytes on the device.
        host_budget: bytes in host memory for those that find no room there; 0 keeps all on the device.

    Attributes:
        moves: how often a slot went to host memory.
    """

    def __init__(
        self, targets: tuple[Target, ...], dtype: torch.dtype, device: torch.device, budget: int, host_budget: int
    ) -> None:
        self.budget = budget
        self.host_budget = host_budget
        self.moves = 0
        self._targets = targets
        self._dtype, self._device = dtype, device
        self._pools: dict[tuple[int, bool, bool, bool], Pool] = {}
        # Every slot, the one that was used longest ago first.
        self._slots: OrderedDict[Slot, None] = OrderedDict()
        self._numbers = count()
        self._lock = RLock()
        self._heap = Heap()

    # -- figures ------------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes on the device: pools (free rows included) and training states."""
        # Copies, because a background thread may free a slot meanwhile.
        pools = sum(p.slot_bytes * p.capacity for p in list(self._pools.values()))
        return pools + sum(slot.state_bytes for slot in list(self._slots) if slot.row is not None)

    @property
    def parked(self) -> int:
        """Bytes in host memory."""
        return sum(_in_host(slot) for slot in list(self._slots) if slot.row is None)

    def figures(self) -> dict[str, float]:
        """Return what metrics show of it: bytes and adapters here and in host memory, and moves there."""
        return {
            "adapter_bytes": self.used,
            "adapter_budget_bytes": self.budget,
            "host_adapters": sum(slot.row is None for slot in list(self._slots)),
            "host_adapter_bytes": self.parked,
            "adapter_moves": self.moves,
        }

    def _total(self) -> int:
        return sum(_needs(slot) for slot in self._slots)

    # -- slots come and go --------------------------------------------------------------------------------------------

    def take(self, lora: LoraConfig, state_bytes_per_parameter: int = 0) -> Slot:
        """Take a slot; its weights are to be written.

        Args:
            lora: the adapter's shape.
            state_bytes_per_parameter: of the training state that will lie beside it.

        Raises:
            UserError: there is no memory for it.
        """
        with self._lock:
            pool = self._pool(lora)
            state = pool.layout.size * state_bytes_per_parameter
            slot = Slot(pool, lora.rank, next(self._numbers), state)
            self._check(slot)
            if not self._make_room(slot, ()):
                raise self._full(slot, self.budget - self.used)
            pool.seat(slot)
            self._slots[slot] = None
        return slot

    def _pool(self, lora: LoraConfig) -> Pool:
        key = (bucket_of(lora.rank), lora.train_attn, lora.train_mlp, lora.train_unembed)
        pool = self._pools.get(key)
        if pool is None:
            layout = Layout(targets_for(self._targets, lora), key[0])
            pool = self._pools[key] = Pool(layout, self._dtype, self._device)
        return pool

    def _check(self, slot: Slot) -> None:
        """Check that there is memory for one more, here or there: what is granted is never refused later."""
        if not self.host_budget:
            return
        left = min(self.budget, self.budget + self.host_budget - self._total())
        if _needs(slot) > left:
            raise self._full(slot, left)

    def _full(self, slot: Slot, left: int) -> UserError:
        needed = _needs(slot) if self.host_budget or not slot.pool.has_room else slot.state_bytes
        host = f" and TINSMITH_HOST_ADAPTER_MB = {self.host_budget / 2**20:.0f} MiB" if self.host_budget else ""
        self._drop_if_idle(slot.pool)
        return UserError(
            f"lora_config.rank: got {slot.rank}, which needs {needed / 2**20:.1f} MiB, expected at most the "
            f"{max(0, left) / 2**20:.1f} MiB left of TINSMITH_ADAPTER_MB = {self.budget / 2**20:.0f} MiB{host}: "
            "end a training run or a sampler, or raise it"
        )

    def free(self, slot: Slot) -> None:
        """Give a slot back; a pool of which no slot is used gives its memory back."""
        with self._lock:
            self._heap.freed(slot.state_bytes if slot.row is not None else _in_host(slot))
            slot.host = slot.tenant = None
            slot.pool.leave(slot)
            self._slots.pop(slot, None)
            self._drop_if_idle(slot.pool)

    def _drop_if_idle(self, pool: Pool) -> None:
        if pool.is_idle:
            self._pools = {k: p for k, p in self._pools.items() if p is not pool}
            self._heap.freed(pool.slot_bytes * pool.capacity)

    def read(self, slot: Slot) -> Tensor:
        """Return a copy of a slot's weights in host memory, [P]; nothing moves the slot meanwhile."""
        with self._lock:
            return slot.flat.to("cpu", copy=True)

    def tidy(self) -> None:
        """Give back memory that is not needed now: free rows at the end of a pool, and freed pages of the heap.

        Between two passes: a slot that is written meanwhile could lose what was written.
        """
        with self._lock:
            # The living are not moved, so that rows in the middle of a pool stay until all behind them are free.
            for pool in self._pools.values():
                self._heap.freed(pool.trim() * pool.slot_bytes)
        self._heap.tidy()

    # -- slots move ---------------------------------------------------------------------------------------------------

    def use(self, slots: Collection[Slot]) -> None:
        """Bring slots that will be computed with together to the device; those used longest ago give way.

        Raises:
            RuntimeError: they are more than the device holds; see `companies`.
        """
        with self._lock:
            for slot in slots:
                self._slots.move_to_end(slot)
            for slot in slots:
                if slot.row is None:
                    if not self._make_room(slot, slots):
                        raise RuntimeError(f"{len(slots)} adapters do not fit in TINSMITH_ADAPTER_MB at once")
                    self._bring_back(slot)

    def companies(self, items: Sequence[T], slot_of: Callable[[T], Slot | None]) -> list[list[T]]:
        """Cut items so that the slots of each part fit on the device at once, those of one slot together."""
        slots = list(dict.fromkeys(slot for item in items if (slot := slot_of(item)) is not None))
        if sum(map(_needs, slots)) <= self.budget:
            return [list(items)] if items else []
        part_of: dict[Slot | None, int] = {None: 0}
        part = held = 0
        for slot in slots:
            if held and held + _needs(slot) > self.budget:
                part, held = part + 1, 0
            part_of[slot] = part
            held += _needs(slot)
        parts: list[list[T]] = [[] for _ in range(part + 1)]
        for item in items:
            parts[part_of[slot_of(item)]].append(item)
        return parts

    def _make_room(self, slot: Slot, keep: Collection[Slot]) -> bool:
        """Make room for a slot that has no row; False where what is to be kept leaves none."""
        pool = slot.pool
        candidates = [other for other in self._slots if other.row is not None and other not in keep]
        candidates.reverse()
        while not self._grow(pool, slot.state_bytes):
            # Rows that nobody uses first: they cost a copy, and no one has to come back.
            if self._drop_spare(pool):
                continue
            if not candidates or not self.host_budget:
                return False
            self._park(candidates.pop())
        return True

    def _grow(self, pool: Pool, state: int) -> bool:
        """Make sure that a pool has a free row, by half where the budget allows and by one where it is tight."""
        free = self.budget - self.used - state
        if not pool.has_room:
            # By half: a doubling pool wastes more of the budget, one row at a time copies the pool each time.
            affordable = max(0, free // pool.slot_bytes)
            pool.grow(min(max(1, pool.capacity // 2), affordable))
        return free >= 0 and pool.has_room

    def _drop_spare(self, wanted: Pool) -> bool:
        dropped = 0
        for pool in self._pools.values():
            # The one that is wanted needs one of its own.
            if pool.spare > (pool is wanted):
                dropped += pool.compact() * pool.slot_bytes
        self._heap.freed(dropped)
        return dropped > 0

    def _park(self, slot: Slot) -> None:
        """Move a slot, and the training state beside it, to host memory."""
        if slot.tenant is not None:
            slot.tenant.move(self._to_host)
        else:
            slot.host = self._to_host(slot.flat)
        self._heap.freed(slot.state_bytes)
        slot.pool.leave(slot)
        slot.pool.parked.add(slot)
        self.moves += 1

    def _bring_back(self, slot: Slot) -> None:
        slot.pool.seat(slot)
        if slot.tenant is not None:
            try:
                slot.tenant.move(lambda vector: vector.to(self._device, copy=True))
            except BaseException:
                # The device has less memory than was reckoned with; it stays where it is.
                slot.pool.leave(slot)
                slot.pool.parked.add(slot)
                raise
            slot.tenant.publish()
        elif slot.host is not None:
            held, slot.host = slot.host, None
            slot.flat.copy_(held)
        self._heap.freed(_in_host(slot))

    def _to_host(self, vector: Tensor) -> Tensor:
        # Pinned, so that it comes back at the full speed of the bus.
        pinned = self._device.type == "cuda"
        return torch.empty(vector.shape, dtype=vector.dtype, pin_memory=pinned).copy_(vector)


def _needs(slot: Slot) -> int:
    """Return the bytes that a slot takes on the device."""
    return slot.pool.slot_bytes + slot.state_bytes


def _in_host(slot: Slot) -> int:
    """Return the bytes that a slot takes in host memory."""
    return slot.state_bytes or slot.pool.slot_bytes
