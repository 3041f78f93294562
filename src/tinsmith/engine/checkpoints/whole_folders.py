"""Writing folders that are either whole or absent, with a checksum of every file."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from tinsmith.adapter_files.manifest import MANIFEST, to_manifest


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
    manifest = to_manifest({**facts, "files": sums})
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Left by a process that died while it wrote; the name is this folder's own, so no other writer is disturbed.
    # By hand: `glob` compiles a pattern for each new name, which takes longer than the look.
    with os.scandir(folder.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{folder.name}.") and entry.name.endswith(".tmp"):
                shutil.rmtree(entry.path, ignore_errors=True)
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        _write(fresh, {**files, MANIFEST: manifest})
    except (OSError, MemoryError):  # a full disk, say: what was written must not keep it full
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
