"""A base model as files: its safetensors, which file holds which tensor, and what else belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tinsmith.engine.model.loading.loading_faults import named_faults
from tinsmith.engine.model.loading.stored_names import StoredNames
from tinsmith.model_files.folder import read_config, read_weights
from tinsmith.model_files.safetensors_header import TensorEntry
from tinsmith.types.errors import UserError, invalid

# What makes a checkpoint usable beside its weights; code that comes with one is left behind.
_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
# Parameters of the loaded model; what the files call them, `names` tells.
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_PLACE = "base"


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
            UserError: it holds no config or no sound safetensors, or is quantised; names file and field.
        """
        config = read_config(_PLACE, folder)
        if config.get("quantization_config"):
            raise invalid(_PLACE, str(folder), "weights that are not quantised (quantization_config)")
        return cls(folder, config, read_weights(_PLACE, folder))

    @cached_property
    def tensors(self) -> dict[str, TensorEntry]:
        """All tensors by name."""
        return {name: entry for entries in self.files.values() for name, entry in entries.items()}

    @cached_property
    def model(self) -> Any:
        """The model of `transformers`, without memory for its weights.

        Raises:
            UserError: the config is of no causal language model; names the field.
        """
        with named_faults(_PLACE, self.folder), torch.device("meta"):
            config = AutoConfig.from_pretrained(str(self.folder), trust_remote_code=False)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)

    @cached_property
    def names(self) -> StoredNames:
        """Which tensors the model's parameters are made of."""
        return StoredNames.of(self.model, {name: entry.shape for name, entry in self.tensors.items()})

    def read(self, name: str) -> Tensor:
        """Read one tensor; only what is used of it is read from the disk."""
        # Opened anew for each: the pages of a file that stays open count as this process's memory.
        with safe_open(self.folder / self._places[name], "pt") as opened:
            return opened.get_tensor(name)

    def stored(self, parameter: str) -> str:
        """Return the tensor that is a parameter, whole.

        Raises:
            UserError: there is none.
        """
        pieces = self.names.pieces.get(parameter, [])
        if len(pieces) != 1:
            raise UserError(f"base: got no tensor {parameter}, expected one in {self.folder}")
        return pieces[0].name

    @cached_property
    def _places(self) -> dict[str, str]:
        return {name: file for file, entries in self.files.items() for name in entries}

    @property
    def is_tied(self) -> bool:
        """Whether the output projection is the input embedding."""
        # The config as it was made, because an architecture has its own default where the file is silent.
        return bool(self.model.config.tie_word_embeddings)

    def companions(self) -> list[Path]:
        """Return the files that a copy of the model needs beside weights and `config.json`."""
        found = {path for pattern in _COMPANIONS for path in self.folder.glob(pattern) if path.is_file()}
        return sorted(p for p in found if p.name != "config.json" and not p.name.endswith(".index.json"))
