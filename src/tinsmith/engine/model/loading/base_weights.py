"""The weights of a base model, from its safetensors into a model of `transformers`, and what can be wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils.logging import disable_progress_bar

from tinsmith.engine.adapters.layouts import Target
from tinsmith.engine.model.loading.stored_names import StoredNames
from tinsmith.model_files.folder import CONFIG, INDEX, SINGLE, read_weights
from tinsmith.model_files.reading import file_error
from tinsmith.model_files.safetensors_header import TensorEntry
from tinsmith.types.errors import UserError

log = logging.getLogger(__name__)

# What can be read as the number that was meant; whole numbers and eight bits are somebody's packed form.
_NUMBERS = ("F64", "F32", "F16", "BF16")
_SHOWN = 3


class BaseWeights:
    """The stored weights of a folder.

    Args:
        place: what messages call the model.
        folder: of the model.

    Raises:
        UserError: the files are missing, cut off, or no safetensors.
    """

    def __init__(self, place: str, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self._files = read_weights(place, folder)
        self._entries: dict[str, TensorEntry] = {n: e for tensors in self._files.values() for n, e in tensors.items()}
        self._names = StoredNames()
        self._file_of = {name: file for file, tensors in self._files.items() for name in tensors}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored tensors, by their names."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def load(self, config: PreTrainedConfig, dtype: torch.dtype, parallel: DistributedConfig | None) -> Any:
        """Make the model.

        Raises:
            UserError: a tensor is missing, has another shape or kind, or values that are NaN or infinite.
        """
        disable_progress_bar()  # the service logs what it loads; a bar would cut through the output of a user's script
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(self._folder),
            config=config,
            trust_remote_code=False,
            dtype=dtype,
            # The plainest code that `transformers` has: the probe compares ours with it.
            attn_implementation="eager",
            experts_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            # They are reported, and refused below with their shapes.
            ignore_mismatched_sizes=True,
            distributed_config=parallel,
        )
        model, report = loaded
        names = self._names = StoredNames.of(model, self.shapes)
        self._check_complete(report, names)
        self._check_kinds(names)
        self._check_finite(model, names)
        if names.unused:
            log.info("%s: %s of its tensors are not used: %s", self._place, len(names.unused), _listed(names.unused))
        return model

    def _check_complete(self, report: Mapping[str, Any], names: StoredNames) -> None:
        # transformers would go on with random numbers in their place.
        for parameter, stored, wanted in sorted(report["mismatched_keys"], key=str):
            name = next(iter(names.file_names(parameter)), parameter)
            raise self._fault(name, f"shape {tuple(stored)}", f"{tuple(wanted)} by its {CONFIG}")
        absent = sorted(map(str, report["missing_keys"]))
        if absent:
            whole = INDEX if (self._folder / INDEX).is_file() else SINGLE
            found = f"no tensor {_listed(absent)}"
            raise file_error(self._place, self._folder / whole, found, f"all that its {CONFIG} asks for")

    def _check_kinds(self, names: StoredNames) -> None:
        for parameter in names.pieces:
            for name in names.file_names(parameter):
                if (kind := self._entries[name].dtype) not in _NUMBERS:
                    expected = f"one of {', '.join(_NUMBERS)}: quantised weights are not served"
                    raise self._fault(name, kind, expected)

    def _check_finite(self, model: Any, names: StoredNames) -> None:
        for parameter, weight in model.named_parameters():
            if not _is_finite(weight):
                name = next(iter(names.file_names(parameter)), parameter)
                raise self._fault(name, "values that are NaN or infinite", "finite weights")

    def _fault(self, name: str, found: str, expected: str) -> UserError:
        file = self._folder / self._file_of.get(name, SINGLE)
        return UserError(f"{self._place}: {file}: {name}: got {found}, expected {expected}")

    def warn_of_merging(self, targets: tuple[Target, ...]) -> None:
        """Say at load what `checkpoint export --merged` will not be able to follow."""
        wanted = {target.name if target.experts else f"{target.name}.weight" for target in targets}
        for parameter, reason in self._names.unfollowed.items():
            if parameter in wanted:
                log.warning("%s: adapters cannot be merged into its files: %s", self._place, reason)
                return


def _is_finite(weight: Tensor) -> bool:
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    # One sum reads a weight faster than a comparison of each number; only a sum that overflowed needs the second look.
    return bool(local.detach().sum().isfinite()) or bool(local.isfinite().all())


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
