"""Adapters frozen for sampling: a snapshot is a slot of its own, copied in memory, so that training can go on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from threading import Lock

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.adapters.trained_adapters import Adapters
from tinsmith.types.errors import invalid
from tinsmith.types.params import LoraConfig


@dataclass(eq=False, slots=True)
class Snapshot:
    """Weights to sample from.

    Attributes:
        sampler_id: name that requests use.
        slot: adapter; None for the base alone.
        lora: the adapter's shape; None for the base alone.
        version: identity of the weights; 0 for the base alone, whatever its sampler is called.
        users: requests that still compute with it.
        released: whether it is to be freed when the last user is done.
    """

    sampler_id: str
    slot: Slot | None
    lora: LoraConfig | None
    version: int
    users: int = 0
    released: bool = False


class Snapshots:
    """The samplers of one base model. Several threads may use it, because snapshots are written in the background.

    Args:
        adapters: where the slots come from and go back to.
    """

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._by_id: dict[str, Snapshot] = {}
        self._versions = count(1)
        self._lock = Lock()

    def add(self, sampler_id: str, slot: Slot | None, lora: LoraConfig | None) -> Snapshot:
        """Name a filled slot; a sampler that had the name before is released."""
        with self._lock:
            if sampler_id in self._by_id:
                self._remove(self._by_id[sampler_id])
            # Never used twice, not even for a name that comes back: the prefix cache is keyed by it.
            version = 0 if slot is None else next(self._versions)
            snapshot = self._by_id[sampler_id] = Snapshot(sampler_id, slot, lora, version)
        return snapshot

    def get(self, sampler_id: str) -> Snapshot:
        """Return a snapshot.

        Raises:
            UserError: there is none of this id.
        """
        snapshot = self._by_id.get(sampler_id)
        if snapshot is None:
            raise invalid("sampler_id", sampler_id, "a sampler that lives in this engine", status=404)
        return snapshot

    def acquire(self, sampler_id: str) -> Snapshot:
        """Return a snapshot and keep its slot until `done` was called.

        Raises:
            UserError: there is none of this id.
        """
        with self._lock:
            snapshot = self.get(sampler_id)
            snapshot.users += 1
        return snapshot

    def done(self, snapshot: Snapshot) -> None:
        """End one use."""
        with self._lock:
            snapshot.users -= 1
            self._free(snapshot)

    def remove(self, sampler_id: str) -> None:
        """Release a sampler; requests that compute with it still end well.

        Raises:
            UserError: there is none of this id.
        """
        with self._lock:
            self._remove(self.get(sampler_id))

    def _remove(self, snapshot: Snapshot) -> None:
        del self._by_id[snapshot.sampler_id]
        snapshot.released = True
        self._free(snapshot)

    def _free(self, snapshot: Snapshot) -> None:
        # The last of release and users frees it: until then a request may still read the slot.
        if snapshot.released and not snapshot.users and snapshot.slot is not None:
            self._adapters.free(snapshot.slot)
            snapshot.slot = None
