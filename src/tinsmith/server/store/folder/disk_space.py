"""How full the disk is: what is left of it, and what of it the service takes."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import anyio.to_thread

log = logging.getLogger("tinsmith.server")

_KINDS = ("blobs", "checkpoints", "recovery", "samplers", "set-aside")


class DiskSpace:
    """The disk that a data folder is on.

    Args:
        root: the data folder.
        low_mb: free space below which the service says that the disk is nearly full, MiB.
    """

    def __init__(self, root: Path, low_mb: int) -> None:
        self._root = root
        self._low = low_mb * 2**20
        self._told = False
        self.stored: dict[str, int] = {}

    def free(self) -> int:
        """Return the bytes that can still be written."""
        return shutil.disk_usage(self._root).free

    def shortage(self) -> str | None:
        """Say that the disk is nearly full; None while it is not."""
        free = self.free()
        if free >= self._low:
            return None
        return f"disk: {free >> 20} MiB free, expected at least {self._low >> 20} (TINSMITH_DISK_LOW_MB)"

    async def look(self) -> None:
        """Count what is stored, and warn once whenever space has become short."""
        self.stored = await anyio.to_thread.run_sync(self._count)
        short = self.shortage()
        if short is not None and not self._told:
            log.warning("%s; saves and requests fail once it is full", short)
        self._told = short is not None

    def _count(self) -> dict[str, int]:
        database = sum(path.stat().st_size for path in self._root.glob("tinsmith.db*") if path.is_file())
        return {"database": database} | {kind: _size(self._root / kind) for kind in _KINDS}


def _size(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                found = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # removed meanwhile
                continue
            # Files of a checkpoint that is held elsewhere too have several names; each counts its part.
            total += found.st_size // found.st_nlink
    return total
