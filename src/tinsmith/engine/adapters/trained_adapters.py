"""The adapters that are trained: their masters, gradients and moments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.engine.adapters.memory import SlotMemory
from tinsmith.engine.adapters.slots import Slot
from tinsmith.types.errors import invalid
from tinsmith.types.params import LoraConfig

VECTORS = ("master", "grad", "exp_avg", "exp_avg_sq")


@dataclass(eq=False, slots=True)
class Adapter:
    """An adapter in training. Flat vectors [P] of the slot's layout, wide dtype, on the device while its slot is.

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

    def move(self, move: Callable[[Tensor], Tensor]) -> None:
        """Put every vector where `move` puts it; where there is no memory for one, all stay."""
        moved = [move(getattr(self, name)) for name in VECTORS]
        for name, vector in zip(VECTORS, moved, strict=True):
            setattr(self, name, vector)

    def take_back(self) -> None:
        """Clear a gradient that was lent to a pass and of which nothing counts, see `PassGradients.fresh`."""
        if not self.has_gradients:
            self.grad.zero_()

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
    """The adapters of one base model.

    Args:
        memory: where their slots come from and go back to.
        wide_dtype: of masters, gradients and moments.
        device: where passes compute.
    """

    def __init__(self, memory: SlotMemory, wide_dtype: torch.dtype, device: torch.device) -> None:
        self.memory = memory
        self._wide, self._device = wide_dtype, device
        self._training: dict[str, Adapter] = {}

    @property
    def used(self) -> int:
        """Bytes on the device; see `SlotMemory.used`."""
        return self.memory.used

    def state_bytes_per_parameter(self) -> int:
        """Bytes of master, gradient and two moments of one parameter: 16 with float32 masters."""
        return len(VECTORS) * self._wide.itemsize

    def get(self, model_id: str) -> Adapter:
        """Return an adapter in training, wherever it is.

        Raises:
            UserError: there is none of this id.
        """
        adapter = self._training.get(model_id)
        if adapter is None:
            raise invalid("model_id", model_id, "a training run that lives in this engine", status=404)
        return adapter

    def ready(self, model_id: str) -> Adapter:
        """Return an adapter in training, on the device; errors as for `get`."""
        adapter = self.get(model_id)
        self.memory.use([adapter.slot])
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
        # Kept with the shape, so that states on disk tell which seed a run began with, whoever chose it.
        seed = adapter_seed(lora.seed, model_id)
        slot = self.memory.take(lora, self.state_bytes_per_parameter())
        try:
            master, grad, exp_avg, exp_avg_sq = (
                torch.zeros(slot.pool.layout.size, dtype=self._wide, device=self._device) for _ in VECTORS
            )
            shape = lora.model_copy(update={"seed": seed})
            adapter = Adapter(model_id, shape, slot, master, grad, exp_avg, exp_avg_sq)
            initialise(adapter.master, slot, seed)
            adapter.publish()
        except BaseException:
            self.memory.free(slot)  # the device has less memory than was reckoned with
            raise
        slot.tenant = self._training[model_id] = adapter
        return adapter

    def remove(self, model_id: str) -> None:
        """Free an adapter and its training state."""
        self.memory.free(self.get(model_id).slot)
        del self._training[model_id]

    def allocate(self, lora: LoraConfig, fill: Callable[[Slot], object]) -> Slot:
        """Take a slot for sampling only.

        Args:
            lora: the adapter's shape.
            fill: writes the slot's weights; where it fails, the slot is given back.

        Raises:
            UserError: there is no memory for it.
        """
        slot = self.memory.take(lora)
        try:
            fill(slot)
        except BaseException:
            self.memory.free(slot)
            raise
        return slot

    def copy(self, adapter: Adapter) -> Slot:
        """Take a slot for sampling only and fill it with an adapter's present weights; errors as for `allocate`."""
        # Of the master and not of the compute copy, which is rounded from it alike: it may be in host memory.
        return self.allocate(adapter.lora, lambda slot: slot.flat.copy_(adapter.master))

    def free(self, slot: Slot) -> None:
        """Give a slot back."""
        self.memory.free(slot)

    def tidy(self) -> None:
        """Give back memory that is not needed now; see `SlotMemory.tidy`."""
        self.memory.tidy()
