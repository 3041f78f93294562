"""Adapters on disk: PEFT files, and for a state the optimizer's moments; never base weights, never pickles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from tinsmith.adapter_files.manifest import read_arrival, read_file, read_manifest
from tinsmith.adapter_files.peft_config import parse_config
from tinsmith.engine.adapters.references import BASE, Reference
from tinsmith.engine.adapters.slots import Slot, targets_for
from tinsmith.engine.adapters.trained_adapters import Adapter
from tinsmith.engine.checkpoints.fingerprint import METADATA_KEY, fingerprint
from tinsmith.engine.checkpoints.foreign import fit_foreign
from tinsmith.engine.checkpoints.peft_layout import adapter_config, check_tensors, export_tensors, import_tensors
from tinsmith.engine.checkpoints.whole_folders import write_folder
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.model_files.safetensors_header import read_metadata
from tinsmith.types.errors import UserError
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, OPTIMIZER, REFERENCE_WEIGHTS
from tinsmith.types.params import LoraConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """A checkpoint that was read and found sound.

    Attributes:
        where: its name in messages.
        lora: the adapter's shape.
        tensors: weights by PEFT name.
        moments: both moments by PEFT name; None where they were not asked for.
        step: optimizer steps taken.
        reference: what the run measured preferences against; None where that is the base.
    """

    where: str
    lora: LoraConfig
    tensors: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] | None
    step: int
    reference: SavedAdapter | None = None

    def check_shape(self, lora: LoraConfig) -> None:
        """Refuse to load into an adapter of another shape.

        Raises:
            UserError: naming both shapes.
        """
        if lora.model_copy(update={"seed": None}) != self.lora.model_copy(update={"seed": None}):
            raise UserError(f"{self.where}: got {_shape(self.lora)}, expected {_shape(lora)} as the model has")

    def fill(self, slot: Slot) -> None:
        """Write the weights into a slot."""
        # Put together on the CPU and in the wide dtype, then moved and rounded in one copy.
        flat = torch.zeros(slot.pool.layout.size, dtype=torch.promote_types(torch.float32, slot.flat.dtype))
        import_tensors(self.tensors, flat, slot.pool.layout, slot.rank)
        slot.flat.copy_(flat)

    def restore(self, adapter: Adapter) -> None:
        """Write weights and moments into an adapter and publish them; moments that were not read become zero."""
        slot = adapter.slot
        read: list[tuple[Tensor, Tensor]] = []
        parts = [self.tensors, *({} if self.moments is None else self.moments[name] for name in _MOMENTS)]
        for tensors, vector in zip(parts, (adapter.master, adapter.exp_avg, adapter.exp_avg_sq), strict=True):
            flat = torch.zeros(vector.shape, dtype=vector.dtype)
            import_tensors(tensors, flat, slot.pool.layout, slot.rank)
            read.append((vector, flat))
        # Put together first: memory that runs out half-way would leave half a state.
        for vector, flat in read:
            vector.copy_(flat)
        adapter.step = self.step if self.moments is not None else 0
        adapter.clear_gradients()
        adapter.publish()


def _shape(lora: LoraConfig) -> str:
    on = [name for name in ("attn", "mlp", "unembed") if getattr(lora, f"train_{name}")]
    return f"rank {lora.rank} on {', '.join(on)}"


class AdapterFolders:
    """Writes and reads the adapters of one base model.

    Args:
        base: the base model; its name and a fingerprint of its weights go into every checkpoint.
    """

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._name = base.info.name
        self._targets = base.targets
        self._mixture = getattr(base.config, "num_experts_per_tok", None) is not None
        self._fingerprint = fingerprint(base)

    def save_state(self, adapter: Adapter, folder: str | Path, reference: Reference = BASE) -> int:
        """Write weights, optimizer and the reference of the run; return the bytes written."""
        layout, rank = adapter.slot.pool.layout, adapter.slot.rank
        moments: dict[str, Tensor] = {}
        for name, flat in zip(_MOMENTS, (adapter.exp_avg, adapter.exp_avg_sq), strict=True):
            moments |= {f"{name}.{k}": v for k, v in export_tensors(flat, layout, rank).items()}
        files = self._weight_files(adapter.master, adapter.slot, adapter.lora) | {OPTIMIZER: dump_tensors(moments)}
        facts = self._facts("state", adapter.lora, adapter.step)
        # Its weights and not where they came from: what they were saved as may be deleted.
        if reference.slot is not None and reference.lora is not None:
            tensors = export_tensors(reference.slot.flat, reference.slot.pool.layout, reference.slot.rank)
            files[REFERENCE_WEIGHTS] = dump_tensors(tensors)
            facts["reference"] = {"lora": reference.lora.model_dump()}
        return write_folder(Path(folder), files, facts)

    def save_weights(self, flat: Tensor, slot: Slot, lora: LoraConfig, folder: str | Path) -> int:
        """Write the weights of a flat vector [P] only; return the bytes written."""
        return write_folder(Path(folder), self._weight_files(flat, slot, lora), self._facts("sampler", lora, 0))

    def _weight_files(self, flat: Tensor, slot: Slot, lora: LoraConfig) -> dict[str, bytes]:
        tensors = export_tensors(flat, slot.pool.layout, slot.rank)
        config = adapter_config(self._name, targets_for(self._targets, lora), slot.rank, self._mixture)
        return {
            ADAPTER_WEIGHTS: dump_tensors(tensors, metadata={"format": "pt", METADATA_KEY: self._fingerprint}),
            ADAPTER_CONFIG: json.dumps(config, indent=2).encode(),
        }

    def _facts(self, kind: str, lora: LoraConfig, step: int) -> dict[str, Any]:
        return {
            "kind": kind,
            "base_model": self._name,
            "base_fingerprint": self._fingerprint,
            "lora": lora.model_dump(),
            "step": step,
        }

    def read(self, folder: str | Path, optimizer: bool) -> SavedAdapter:
        """Read a checkpoint of ours, or a PEFT folder made elsewhere, and check all of it.

        Args:
            folder: where it lies.
            optimizer: whether the moments are wanted.

        Raises:
            UserError: it is no checkpoint, damaged, of another base, or holds what is not computed here.
        """
        folder = Path(folder)
        where = f"checkpoint {folder.name}"
        if not folder.is_dir():
            raise UserError(f"{where}: got a folder that does not exist, expected a saved checkpoint", 404)
        # Folders of ours are told by their manifest, and only they can hold an optimizer's state.
        manifest = read_manifest(folder)
        if manifest is None:
            return self._read_foreign(folder, optimizer)
        self._check_base(where, manifest["base_model"], manifest["base_fingerprint"])
        # For its checksum alone: the manifest says all that the config does.
        read_file(folder, ADAPTER_CONFIG, manifest)
        tensors = _parse(where, ADAPTER_WEIGHTS, read_file(folder, ADAPTER_WEIGHTS, manifest))
        lora = LoraConfig.model_validate(manifest["lora"])
        check_tensors(where, tensors, self._targets, lora.rank)
        moments = self._read_moments(folder, where, manifest, lora.rank) if optimizer else None
        reference = self._read_reference(folder, where, manifest)
        return SavedAdapter(where, lora, tensors, moments, int(manifest["step"]), reference)

    def _read_reference(self, folder: Path, where: str, manifest: dict[str, Any]) -> SavedAdapter | None:
        if "reference" not in manifest:
            return None
        tensors = _parse(where, REFERENCE_WEIGHTS, read_file(folder, REFERENCE_WEIGHTS, manifest))
        lora = LoraConfig.model_validate(manifest["reference"]["lora"])
        check_tensors(f"{where}: {REFERENCE_WEIGHTS}", tensors, self._targets, lora.rank)
        return SavedAdapter(where, lora, tensors, None, 0)

    def _read_foreign(self, folder: Path, optimizer: bool) -> SavedAdapter:
        where = "adapter"
        if optimizer:
            raise UserError(f"{where}: got weights without an optimizer, expected a saved state")
        sums = read_arrival(folder)
        config = parse_config(f"{where}: {ADAPTER_CONFIG}", read_file(folder, ADAPTER_CONFIG, sums))
        data = read_file(folder, ADAPTER_WEIGHTS, sums)
        tensors = _parse(where, ADAPTER_WEIGHTS, data)
        # An adapter of ours that lost its manifest on the way through other tools still knows its base.
        if (found := read_metadata(data).get(METADATA_KEY)) is not None:
            self._check_base(where, config.base_model, found)
        lora, tensors = fit_foreign(where, config, tensors, self._base)
        return SavedAdapter(where, lora, tensors, None, 0)

    def _check_base(self, where: str, name: str, found: str) -> None:
        # By weights and not by name: one base goes by many names, and one name may be given to another base.
        if found != self._fingerprint:
            raise UserError(
                f"{where}: got a checkpoint of base model {name} (weights {found[:12]}), "
                f"expected one of {self._name} (weights {self._fingerprint[:12]})"
            )

    def _read_moments(
        self, folder: Path, where: str, manifest: dict[str, Any], rank: int
    ) -> dict[str, dict[str, Tensor]]:
        if OPTIMIZER not in manifest["files"]:
            raise UserError(f"{where}: got weights without an optimizer, expected a saved state")
        tensors = _parse(where, OPTIMIZER, read_file(folder, OPTIMIZER, manifest))
        moments = {
            m: {k.removeprefix(f"{m}."): v for k, v in tensors.items() if k.startswith(f"{m}.")} for m in _MOMENTS
        }
        for moment in moments.values():
            check_tensors(f"{where}: {OPTIMIZER}", moment, self._targets, rank)
        return moments


def _parse(where: str, name: str, data: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise UserError(f"{where}: got {name} that is no safetensors file ({error}), expected one") from error
