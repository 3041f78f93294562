"""The files of a saved checkpoint, as a client fetches them: each is what was saved, or the fetch fails and says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from tinsmith.adapter_files.manifest import MANIFEST, read_manifest
from tinsmith.types.errors import Damaged, UserError


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file of a checkpoint.

    Attributes:
        name: relative to the checkpoint's folder.
        size_bytes, sha256: of what was saved, by the manifest.
    """

    name: str
    size_bytes: int
    sha256: str


async def list_files(folder: Path) -> list[SavedFile]:
    """Return the files of a checkpoint.

    Raises:
        Damaged: the folder or a file is gone, or a file has another length than it was saved with.
    """
    return await anyio.to_thread.run_sync(_list_files, folder)


def _list_files(folder: Path) -> list[SavedFile]:
    sums = _sums(folder)
    present = _present(folder)
    if missing := sorted(sums.keys() - present.keys()):
        raise Damaged(f"checkpoint {folder.name}: {missing[0]} is gone")
    listed: list[SavedFile] = []
    for name, path in sorted(present.items()):
        size = path.stat().st_size
        if name not in sums:
            listed.append(SavedFile(name, size, _checksum(path)))
            continue
        saved, checksum = sums[name]
        if size != saved:
            raise Damaged(f"checkpoint {folder.name}: {name} is damaged: it has {size} bytes, expected {saved}")
        listed.append(SavedFile(name, saved, checksum))
    return listed


async def sound_file(folder: Path, name: str) -> Path:
    """Return the path of one file of a checkpoint, by a name that `list_files` gives, once it has been compared.

    Raises:
        UserError: there is none by that name, whatever else the name may point to (404).
        Damaged: it is gone or is not what was saved.
    """
    return await anyio.to_thread.run_sync(_sound_file, folder, name)


def _sound_file(folder: Path, name: str) -> Path:
    sums = _sums(folder)
    # Looked up, not joined to the folder: `../key` is simply none of them.
    present = _present(folder)
    if name not in present:
        if name in sums:
            raise Damaged(f"checkpoint {folder.name}: {name} is gone")
        raise UserError(f"file: got {name!r}, expected one of {', '.join(sorted(present))}", 404)
    # The manifest has been compared with its own checksum.
    if name in sums and (found := _checksum(present[name])) != sums[name][1]:
        raise Damaged(f"checkpoint {folder.name}: {name} is damaged: it has SHA-256 {found}, expected {sums[name][1]}")
    return present[name]


def _sums(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of the files that the manifest names."""
    manifest = read_manifest(folder)
    if manifest is None:
        what = MANIFEST if folder.is_dir() else "its folder"
        raise Damaged(f"checkpoint {folder.name}: {what} is gone")
    return {name: (file["size"], file["sha256"]) for name, file in manifest["files"].items()}


def _present(folder: Path) -> dict[str, Path]:
    # No links: they could lead out of the folder.
    regular = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in regular}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
