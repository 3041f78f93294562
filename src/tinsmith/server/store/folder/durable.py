"""Making sure that what was written survives a power loss: files, and the folders that name them."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until all that a folder holds, and its own entry, is on the disk."""
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place) / name)
        sync(Path(place))
    sync(folder.parent)


def make_folders(folder: Path, durable: bool, mode: int = 0o777) -> None:
    """Make a folder and what it stands in; those that are new get their entries onto the disk if `durable`."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=mode, exist_ok=True)
    if durable:
        for path in new:
            sync(path.parent)
