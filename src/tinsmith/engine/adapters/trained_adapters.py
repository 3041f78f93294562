"""The adapters that are trained: their masters, gradients and moments, and the memory that all slots take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.adapters.heap import Heap
from tinsmith.engine.adapters.slots import Layout, Pool, Slot, Target, bucket_of, targets_for
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.params import LoraConfig


@dataclass(eq=False, slots=True)
class Adapter:
    """An adapter in training. Flat vectors [P] of the slot's layout, wide dtype.

    Attributes:
        model_id: the training run.
        lora: its shape.
        slot: its compute copy.
        master: weights.
        grad: sum of gradients since the last step.
        exp_avg: first moment.
        exp_avg_sq: second moment.
        step: optimizer steps taken.
        has_gradients: whether a backward pass was added since the last step.
    """

    model_id: str
    lora: LoraConfig
    slot: Slot
    master: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int = 0
    has_gradients: bool = False

    def publish(self) -> None:
        """Refresh the compute copy from the master."""
        self.slot.flat.copy_(self.master)

    def clear_gradients(self) -> None:
        """Forget gradients that were accumulated."""
        if self.has_gradients:
            self.grad.zero_()
        self.has_gradients = False


def initialise(flat: Tensor, slot: Slot, seed: int) -> None:
    """Set a master to the first weights of a run: A ~ U(-1/sqrt(in), 1/sqrt(in)) in float32, B = 0.

    Each module draws from a generator of its own, seeded by (seed, module name): what one module gets depends
    neither on which others are trained nor on the device.
    """
    flat.zero_()
    for name, place in slot.pool.layout.places.items():
        rank = place.target.rank(slot.rank)
        a = place.a(flat)[..., :rank, :]
        # 63 bits of the digest, because manual_seed takes no larger number.
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        # Kaiming-uniform with a = sqrt(5), as nn.Linear and PEFT draw A. Always float32 on the CPU, then cast: the same
        # adapter begins alike on every device and in every dtype.
        bound = place.target.inputs**-0.5
        a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator))


def adapter_seed(seed: int | None, model_id: str) -> int:
    """Return the seed of an adapter; where the request brings none, one made of the model's id.

    The only place where an adapter's seed is chosen. Ids hold the random id of their session, so that runs without a
    seed differ from each other, and a replay makes the same adapter again.
    """
    if seed is not None:
        return seed
    return int.from_bytes(hashlib.sha256(model_id.encode()).digest()[:8], "big")


class Adapters:
    """All slots of one base model, within a budget. Slots may be given back from any thread.

    Args:
        targets: weights of the base that adapters can act on.
        dtype: compute dtype.
        wide_dtype: of masters, gradients and moments.
        device: where slots and training states are.
        budget: bytes that slots and training states may take.
    """

    def __init__(
        self,
        targets: tuple[Target, ...],
        dtype: torch.dtype,
        wide_dtype: torch.dtype,
        device: torch.device,
        budget: int,
    ) -> None:
        self.budget = budget
        self._targets = targets
        self._dtype, self._wide, self._device = dtype, wide_dtype, device
        self._pools: dict[tuple[int, bool, bool, bool], Pool] = {}
        self._training: dict[str, Adapter] = {}
        self._lock = Lock()
        self._heap = Heap()

    @property
    def used(self) -> int:
        """Bytes taken by pools (free slots included) and training states."""
        # Copies, because a background thread may free a slot meanwhile.
        pools = sum(p.slot_bytes * p.capacity for p in list(self._pools.values()))
        return pools + sum(self._state_bytes(a.slot.pool) for a in list(self._training.values()))

    def state_bytes_per_parameter(self) -> int:
        """Bytes of master, gradient and two moments of one parameter: 16 with float32 masters."""
        return 4 * self._wide.itemsize

    def _state_bytes(self, pool: Pool) -> int:
        return pool.layout.size * self.state_bytes_per_parameter()

    def get(self, model_id: str) -> Adapter:
        """Return an adapter in training.

        Raises:
            UserError: there is none of this id.
        """
        adapter = self._training.get(model_id)
        if adapter is None:
            raise invalid("model_id", model_id, "a training run that lives in this engine", status=404)
        return adapter

    def model_ids(self) -> list[str]:
        """Ids of all adapters in training."""
        return list(self._training)

    def create(self, model_id: str, lora: LoraConfig) -> Adapter:
        """Make an adapter with its first weights.

        Raises:
            UserError: the id is taken, or there is no memory for it.
        """
        if model_id in self._training:
            raise invalid("model_id", model_id, "an id that is not in use")
        slot = self._take(lora, trained=True)
        vectors: dict[str, Any] = {
            name: torch.zeros(slot.pool.layout.size, dtype=self._wide, device=self._device)
            for name in ("master", "grad", "exp_avg", "exp_avg_sq")
        }
        # Kept with the shape, so that states on disk tell which seed a run began with, whoever chose it.
        seed = adapter_seed(lora.seed, model_id)
        adapter = Adapter(model_id, lora.model_copy(update={"seed": seed}), slot, **vectors)
        initialise(adapter.master, slot, seed)
        adapter.publish()
        self._training[model_id] = adapter
        return adapter

    def remove(self, model_id: str) -> None:
        """Free an adapter and its training state."""
        adapter = self.get(model_id)
        del self._training[model_id]
        self._heap.freed(self._state_bytes(adapter.slot.pool))
        self.free(adapter.slot)

    def allocate(self, lora: LoraConfig) -> Slot:
        """Take a slot for sampling only; its weights are to be written.

        Raises:
            UserError: there is no memory for it.
        """
        return self._take(lora, trained=False)

    def copy(self, adapter: Adapter) -> Slot:
        """Take a slot for sampling only and fill it with an adapter's present weights."""
        slot = self.allocate(adapter.lora)
        slot.flat.copy_(adapter.slot.flat)
        return slot

    def free(self, slot: Slot) -> None:
        """Give a slot back; a pool of which no slot is used gives its memory back."""
        with self._lock:
            slot.pool.give_back(slot)
            if slot.pool.is_idle:
                self._pools = {k: p for k, p in self._pools.items() if p is not slot.pool}
                self._heap.freed(slot.pool.slot_bytes * slot.pool.capacity)

    def tidy(self) -> None:
        """Give back memory that is not needed now: free slots at the end of a pool, and freed pages of the heap.

        For the thread that computes, between two passes: a slot that is written meanwhile could lose what was written.
        """
        with self._lock:
            # The living are not moved, so that slots in the middle of a pool stay until all behind them are free.
            for pool in self._pools.values():
                self._heap.freed(pool.trim() * pool.slot_bytes)
        self._heap.tidy()

    def _pool(self, lora: LoraConfig) -> Pool:
        key = (bucket_of(lora.rank), lora.train_attn, lora.train_mlp, lora.train_unembed)
        pool = self._pools.get(key)
        if pool is None:
            layout = Layout(targets_for(self._targets, lora), key[0])
            pool = self._pools[key] = Pool(layout, self._dtype, self._device)
        return pool

    def _take(self, lora: LoraConfig, trained: bool) -> Slot:
        """Take a slot, growing its pool by half where the budget allows and by one where it is tight."""
        with self._lock:
            pool = self._pool(lora)
            # Reckoned before anything is granted: running out in the middle of a pass would hurt every tenant.
            state = self._state_bytes(pool) if trained else 0
            free = self.budget - self.used - state
            if not pool.has_room:
                # By half: a doubling pool wastes more of the budget, one slot at a time copies the pool each time.
                affordable = max(0, free // pool.slot_bytes)
                pool.grow(min(max(1, pool.capacity // 2), affordable))
            if free >= 0 and pool.has_room:
                return pool.take(lora.rank)
            needed = state + (0 if pool.has_room else pool.slot_bytes)
        raise UserError(
            f"lora_config.rank: got {lora.rank}, which needs {needed / 2**20:.1f} MiB, expected at most the "
            f"{max(0, free + state) / 2**20:.1f} MiB left of TINSMITH_ADAPTER_MB = {self.budget / 2**20:.0f} MiB: "
            "end a training run or a sampler, or raise it"
        )
