"""Folders that are either whole or absent, with a checksum of every file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from tinsmith.types.errors import Damaged, UserError

MANIFEST = "state.json"
_FORMAT = 1
# Under this key a manifest has the checksum of all else that it says; those of before have none.
_OWN_SUM = "sha256"


def write_folder(folder: Path, files: dict[str, bytes], facts: dict[str, Any]) -> int:
    """Write files and their manifest into a folder that appears at once; one that was there is replaced.

    Args:
        folder: the final place; parents are made.
        files: content by name.
        facts: what the manifest tells beside the checksums.

    Returns:
        bytes written.
    """
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    told = {"format": _FORMAT, **facts, "files": sums}
    manifest = json.dumps({**told, _OWN_SUM: _sum_of(told)}, indent=2).encode()
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Left by a process that died while it wrote; the name is this folder's own, so no other writer is disturbed.
    for abandoned in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(abandoned, ignore_errors=True)
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        _write(fresh, {**files, MANIFEST: manifest})
    except OSError:  # a full disk, say: what was written must not keep it full
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    # A rename is atomic, but not onto a folder that holds something. A death between the two leaves neither; what is
    # replaced is a save that is run again, which then writes it anew.
    if folder.exists():
        old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        fresh.rename(folder)
    _sync(folder.parent)
    return sum(map(len, files.values())) + len(manifest)


def _sum_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a new folder so that it would survive a power loss."""
    folder.mkdir()
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, None where it has none (then it was written elsewhere).

    Raises:
        Damaged: the manifest is not what was written.
        UserError: it is of a later format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        format_ = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {folder.name}: got a {MANIFEST} that cannot be read, expected JSON") from error
    if format_ != _FORMAT:
        raise UserError(f"checkpoint {folder.name}: got format {format_}, expected format {_FORMAT}")
    wanted = manifest.pop(_OWN_SUM, None)
    if wanted not in (None, found := _sum_of(manifest)):
        raise Damaged(f"checkpoint {folder.name}: got {MANIFEST} with SHA-256 {found}, expected {wanted}: damaged")
    return manifest


def read_file(folder: Path, name: str, manifest: dict[str, Any] | None) -> bytes:
    """Read one file and compare it with the manifest's checksum.

    Raises:
        Damaged: by the manifest, the file is missing or not what was written.
        UserError: there is no manifest and no such file.
    """
    path = folder / name
    if not path.is_file():
        fault = UserError if manifest is None else Damaged
        raise fault(f"checkpoint {folder.name}: got no {name}, expected a folder that holds it")
    data = path.read_bytes()
    if manifest is not None:
        wanted = manifest["files"].get(name, {}).get("sha256")
        found = hashlib.sha256(data).hexdigest()
        if wanted != found:
            raise Damaged(f"checkpoint {folder.name}: got {name} with SHA-256 {found}, expected {wanted}: damaged")
    return data
