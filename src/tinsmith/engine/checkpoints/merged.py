"""An adapter merged into its base: W + scale·B·A for every weight, as a plain `transformers` checkpoint.

The base is read and written tensor by tensor, so that it need not fit into memory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinsmith.adapter_files.peft_config import AdapterConfig, parse_config
from tinsmith.adapter_files.peft_parts import Parts, read_parts
from tinsmith.engine.checkpoints.base_folder import EMBEDDINGS, HEAD, BaseFolder
from tinsmith.engine.checkpoints.fingerprint import METADATA_KEY, fingerprint_of_folder
from tinsmith.engine.checkpoints.foreign import check_finite
from tinsmith.engine.checkpoints.merge_names import Update, find_updates
from tinsmith.engine.model.loading.stored_names import Piece
from tinsmith.model_files.folder import INDEX, SINGLE
from tinsmith.model_files.reading import check_file
from tinsmith.model_files.safetensors_header import TensorEntry, make_header
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
_FORMAT_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_TORCH_DTYPES = {name: dtype for dtype, name in _FORMAT_NAMES.items()}

Progress = Callable[[int, int], None]


def read_adapter_config(adapter: Path) -> AdapterConfig:
    """Read the config of a PEFT folder.

    Raises:
        UserError: there is none, or it is of an adapter that cannot be computed here.
    """
    path = adapter / ADAPTER_CONFIG
    if not path.is_file():
        raise invalid("adapter", str(adapter), f"a PEFT folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    check_file("adapter", path, "a config of PEFT")
    return parse_config(f"adapter: {ADAPTER_CONFIG}", path.read_bytes())


def check_output(folder: Path, dtype: str | None) -> Path:
    """Return the absolute path of a folder that may be written.

    Raises:
        UserError: the folder holds something, or the dtype is none of `DTYPES`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise invalid("folder", str(folder), "an empty folder, or one that does not exist")
    if dtype is not None and dtype not in DTYPES:
        raise invalid("dtype", dtype, f"one of {', '.join(DTYPES)}")
    return folder.absolute()


def merge(adapter: Path, base: Path, folder: Path, dtype: str | None = None, progress: Progress | None = None) -> Path:
    """Write a base with an adapter merged into it.

    Args:
        adapter: a PEFT folder.
        base: a checkpoint of `transformers`: config, safetensors, tokenizer.
        folder: appears whole or not at all; must be empty or absent.
        dtype: of the written weights, a name of `DTYPES`; None keeps each tensor's. Sums are made in float32 or wider
            and rounded once.
        progress: told the bytes written and the bytes in all.

    Returns:
        `folder`.

    Raises:
        UserError: the folder is not empty or cannot be written, the adapter is none or does not fit the base, or the
            disk has no room.
    """
    folder = check_output(folder, dtype)
    merger = _Merger.open(adapter, BaseFolder.open(base), None if dtype is None else DTYPES[dtype])
    try:
        _write_whole(merger, folder, progress)
    except OSError as error:
        raise invalid("folder", str(folder), f"a folder that can be written ({error.strerror})") from error
    return folder


def _write_whole(merger: _Merger, folder: Path, progress: Progress | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < merger.size:
        raise invalid("folder", f"{folder.parent} with {free} bytes free", f"{merger.size} bytes for the merged model")
    # Beside the target, because a rename is atomic only inside one file system.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        merger.write(partial, progress)
        partial.chmod(0o755)  # mkdtemp makes it private
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial)
        raise


@dataclass(frozen=True)
class _Merger:
    """What goes where.

    Attributes:
        base: the base model's files.
        tensors: of the adapter.
        updates: of each tensor of the base that the adapter changes.
        files: tensors of each file to write, by the names that they get.
        sources: the base's tensor behind each of those names.
        dtype: of floating tensors; None keeps theirs.
        unties: whether an output projection of its own is written for a base that shares the input embedding.
    """

    base: BaseFolder
    tensors: dict[str, Tensor]
    updates: dict[str, Update]
    files: dict[str, dict[str, TensorEntry]]
    sources: dict[str, str]
    dtype: torch.dtype | None
    unties: bool

    @classmethod
    def open(cls, adapter: Path, base: BaseFolder, dtype: torch.dtype | None) -> _Merger:
        config = read_adapter_config(adapter)
        tensors, trained_on = _load_adapter(adapter)
        parts = read_parts("adapter", config, {name: tuple(t.shape) for name, t in tensors.items()})
        # An adapter acts on the output alone. Merged into a shared matrix it would change the input embeddings too.
        unties = "lm_head" in parts.parts and base.is_tied
        shapes = {name: entry.shape for name, entry in base.tensors.items()}
        names = base.names
        # Its own from now on, made of the embedding's numbers.
        if unties:
            shapes[HEAD] = shapes[base.stored(EMBEDDINGS)]
            names.pieces[HEAD] = [Piece(HEAD, HEAD, None, (0, shapes[HEAD][0]))]
        updates = find_updates(parts, names, shapes)
        _check_copies(parts, tensors, base)
        check_finite("adapter", tensors)
        found = fingerprint_of_folder(base) if trained_on is not None else None
        if found is not None and found != trained_on:
            raise UserError(
                f"base: got {base.folder} (weights {found[:12]}), expected the base model that the adapter was trained "
                f"on: {config.base_model} (weights {str(trained_on)[:12]})"
            )
        written = {piece.name: piece.written for pieces in names.pieces.values() for piece in pieces}
        files = {
            file: {written.get(name, name): _out(entry, dtype) for name, entry in entries.items()}
            for file, entries in base.files.items()
        }
        sources = {written.get(name, name): name for name in base.tensors}
        # The new head goes into the file of the embeddings, whose shape and dtype it has.
        if unties:
            sources[HEAD] = base.stored(EMBEDDINGS)
            embeddings = written[sources[HEAD]]
            file = next(file for file, entries in files.items() if embeddings in entries)
            files[file][HEAD] = files[file][embeddings]
        return cls(base, tensors, updates, files, sources, dtype, unties)

    @property
    def size(self) -> int:
        """Bytes of all weights that will be written."""
        return sum(entry.size for entries in self.files.values() for entry in entries.values())

    def write(self, folder: Path, progress: Progress | None) -> None:
        done, total = 0, self.size
        for file, entries in self.files.items():
            with (folder / file).open("wb") as out:
                out.write(make_header(entries, {"format": "pt"}))
                for name, entry in entries.items():
                    out.write(memoryview(_bytes(self._tensor(name, entry))))
                    done += entry.size
                    if progress is not None:
                        progress(done, total)
        # `transformers` looks for an index unless there is one file of the usual name.
        if list(self.files) != [SINGLE]:
            places = {name: file for file, entries in self.files.items() for name in entries}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        for path in self.base.companions():
            shutil.copyfile(path, folder / path.name)
        (folder / "config.json").write_text(json.dumps(self._config(), indent=2) + "\n")

    def _tensor(self, name: str, entry: TensorEntry) -> Tensor:
        source = self.sources[name]
        weight = self.base.read(source)
        update = self.updates.get(HEAD if name == HEAD and self.unties else source)
        if update is not None:
            # The sum of two bfloat16 numbers would lose most of a small update; it is rounded once, at the end.
            wide = torch.promote_types(torch.float32, weight.dtype)
            if self.dtype == torch.float64:
                wide = torch.float64
            weight = update.add_to(weight.to(wide), self.tensors)
        return weight.to(_TORCH_DTYPES[entry.dtype]) if entry.dtype in _TORCH_DTYPES else weight

    def _config(self) -> dict[str, Any]:
        # A decoder that was saved alone calls itself one; what is written is the whole model, and is served as such.
        config = {**self.base.config, "architectures": [type(self.base.model).__name__]}
        if self.unties:
            config["tie_word_embeddings"] = False
        if self.dtype is not None:
            # The key of the older configs, where the base has it.
            key = "torch_dtype" if "torch_dtype" in config else "dtype"
            config[key] = str(self.dtype).removeprefix("torch.")
        return config


def _load_adapter(adapter: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return an adapter's tensors, and the fingerprint of its base where it has one."""
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise invalid("adapter", str(adapter), f"a PEFT folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    check_file("adapter", adapter / ADAPTER_WEIGHTS, "safetensors")
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            for name, tensor in tensors.items():
                if not tensor.is_floating_point():
                    raise invalid(f"adapter: {ADAPTER_WEIGHTS}: {name}: dtype", tensor.dtype, "a floating one")
            return tensors, (opened.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise UserError(
            f"adapter: got {ADAPTER_WEIGHTS} that is no safetensors file ({error}), expected one"
        ) from error


def _out(entry: TensorEntry, dtype: torch.dtype | None) -> TensorEntry:
    return (
        entry if dtype is None or entry.dtype not in _TORCH_DTYPES else TensorEntry(_FORMAT_NAMES[dtype], entry.shape)
    )


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _check_copies(parts: Parts, tensors: dict[str, Tensor], base: BaseFolder) -> None:
    """Check that embeddings which PEFT stored beside an adapter are the base's own, and not trained ones."""
    for name, parameter in parts.copies.items():
        own = base.read(base.stored(EMBEDDINGS if parameter == HEAD and base.is_tied else parameter))
        narrow = min(own.dtype, tensors[name].dtype, key=lambda d: d.itemsize)
        if own.shape != tensors[name].shape or not torch.equal(own.to(narrow), tensors[name].to(narrow)):
            raise UserError(f"adapter: got tensor {name} other than the base's, expected no trained embeddings")
