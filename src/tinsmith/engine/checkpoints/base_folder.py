"""A base model as files: its safetensors, which file holds which tensor, and what else belongs to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinsmith.adapter_files.safetensors_header import TensorEntry
from tinsmith.types.errors import UserError, invalid

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What makes a checkpoint usable beside its weights; code that comes with one is left behind.
_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class BaseFolder:
    """A base model's folder.

    Attributes:
        folder: where it lies.
        config: its `config.json`.
        files: tensors of each weights file, in their order: name, dtype and shape.
    """

    folder: Path
    config: dict[str, Any]
    files: dict[str, dict[str, TensorEntry]]

    @classmethod
    def open(cls, folder: Path) -> BaseFolder:
        """Look through a folder.

        Raises:
            UserError: it holds no config or no safetensors, or is quantised.
        """
        config = _read_json(folder / "config.json")
        if config.get("quantization_config"):
            raise invalid("base", str(folder), "weights that are not quantised (quantization_config)")
        if (folder / INDEX).is_file():
            names: set[str] = set(_read_json(folder / INDEX).get("weight_map", {}).values())
        elif (folder / SINGLE).is_file():
            names = {SINGLE}
        else:
            raise invalid("base", str(folder), f"a folder with {SINGLE} or {INDEX}")
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise invalid("base", str(folder), f"a folder that holds {name}, as its {INDEX} says")
        return cls(folder, config, {name: _entries(folder / name) for name in sorted(names)})

    @cached_property
    def tensors(self) -> dict[str, TensorEntry]:
        """All tensors by name."""
        return {name: entry for entries in self.files.values() for name, entry in entries.items()}

    def read(self, name: str) -> Tensor:
        """Read one tensor; only what is used of it is read from the disk."""
        # Opened anew for each: the pages of a file that stays open count as this process's memory.
        with safe_open(self.folder / self._places[name], "pt") as opened:
            return opened.get_tensor(name)

    @cached_property
    def _places(self) -> dict[str, str]:
        return {name: file for file, entries in self.files.items() for name in entries}

    @cached_property
    def is_tied(self) -> bool:
        """Whether the output projection is the input embedding."""
        if HEAD not in self.tensors:
            return True
        from transformers import AutoConfig

        # An architecture has its own default where the file is silent.
        return bool(AutoConfig.from_pretrained(str(self.folder), trust_remote_code=False).tie_word_embeddings)

    def companions(self) -> list[Path]:
        """Return the files that a copy of the model needs beside weights and `config.json`."""
        found = {path for pattern in _COMPANIONS for path in self.folder.glob(pattern) if path.is_file()}
        return sorted(p for p in found if p.name != "config.json" and not p.name.endswith(".index.json"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"base: got no readable {path.name} in {path.parent}, expected a checkpoint") from error
    if not isinstance(found, dict):
        raise invalid(f"base: {path.name}", type(found).__name__, "a JSON object")
    return found


def _entries(file: Path) -> dict[str, TensorEntry]:
    try:
        with safe_open(file, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: TensorEntry(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except SafetensorError as error:
        raise UserError(f"base: got {file.name} that is no safetensors file ({error}), expected one") from error
