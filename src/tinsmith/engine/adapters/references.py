"""What losses over pairs measure against: the base alone, or saved weights in a slot of their own.

A run keeps one reference, the base until a request of the run names another. It is held here, as part of the run: it
is written with its states and comes back with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

import torch

from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.adapters.trained_adapters import Adapters
from tinsmith.types.facts.loss_table import BASE_REFERENCE
from tinsmith.types.params import LoraConfig


class SavedWeights(Protocol):
    """Weights that were read and found sound."""

    @property
    def lora(self) -> LoraConfig:
        """The adapter's shape."""
        ...

    def fill(self, slot: Slot) -> None:
        """Write them into a slot."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """Weights that do not change.

    Attributes:
        identity: the same for equal weights, wherever they were loaded from.
        slot: where they lie; None for the base alone.
        lora: the adapter's shape; None for the base alone.
    """

    identity: bytes
    slot: Slot | None
    lora: LoraConfig | None


BASE = Reference(b"base", None, None)


class References:
    """The references of all training runs of one base model.

    Args:
        adapters: where the slots come from and go back to.
        read: reads a folder of saved weights.
    """

    def __init__(self, adapters: Adapters, read: Callable[[str], SavedWeights]) -> None:
        self._adapters = adapters
        self._read = read
        self._kept: dict[str, Reference] = {}
        # By run and folder, so that the passes of one operation load it once.
        self._named: dict[tuple[str, str], Reference] = {}

    def kept(self, model_id: str) -> Reference:
        """Return what a run measures against where its request names nothing."""
        return self._kept.get(model_id, BASE)

    def find(self, model_id: str, named: str | None) -> Reference:
        """Return a reference, loaded on first use.

        Args:
            model_id: the run.
            named: a folder of saved weights, `base`, or None for what the run keeps.

        Raises:
            UserError: the folder is no checkpoint, is damaged or of another base, or the adapter budget is exhausted.
        """
        if named is None:
            return self.kept(model_id)
        if named == BASE_REFERENCE:
            return BASE
        found = self._named.get((model_id, named))
        if found is None:
            found = self._named[model_id, named] = self.load(self._read(named))
        return found

    def load(self, saved: SavedWeights) -> Reference:
        """Put saved weights into a slot.

        Raises:
            UserError: the adapter budget is exhausted.
        """
        slot = self._adapters.filled(saved.lora, saved.fill)
        return Reference(_identity(slot, saved.lora), slot, saved.lora)

    def keep(self, model_id: str, named: str) -> None:
        """Let a run measure against what a request of the run named, from now on.

        Raises:
            UserError: as `find`.
        """
        self.replace(model_id, self.find(model_id, named))

    def replace(self, model_id: str, reference: Reference) -> None:
        """Let a run measure against a reference from now on; what it kept before is freed."""
        before = self._kept.pop(model_id, BASE)
        if reference is not BASE:
            self._kept[model_id] = reference
        if before is not reference and before not in self._named.values():
            self.free(before)

    def release_unused(self, used: Set[tuple[str, str]]) -> None:
        """Free what runs named before and neither keep nor named just now.

        Args:
            used: runs that have just computed, and the folders that they named.
        """
        runs = {model_id for model_id, _ in used}
        for key in [key for key in self._named if key[0] in runs and key not in used]:
            reference = self._named.pop(key)
            if reference is not self.kept(key[0]):
                self.free(reference)

    def forget(self, model_id: str) -> None:
        """Free all that a run keeps or has named."""
        held = {self._named.pop(key) for key in list(self._named) if key[0] == model_id}
        for reference in held | {self._kept.pop(model_id, BASE)}:
            self.free(reference)

    def free(self, reference: Reference) -> None:
        """Give a reference's slot back."""
        if reference.slot is not None:
            self._adapters.free(reference.slot)


def _identity(slot: Slot, lora: LoraConfig) -> bytes:
    # Of the slot and not of a file: weights that were saved again with a state are the same weights.
    shape = lora.model_copy(update={"seed": None}).model_dump_json()
    content = slot.flat.contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.sha256(shape.encode() + content.tobytes()).digest()
