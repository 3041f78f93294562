"""One run on a log path at a time: an operating-system lock, and a note that names its holder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from tinsmith.types.errors import UserError

LOCK = ".lock"
NOTE = ".holder"


class RunLock:
    """An exclusive lock on a run's folder, taken when made; it ends with its process, however that ends.

    Raises:
        UserError: a run of another process, or of this one, has the folder.
    """

    def __init__(self, folder: Path) -> None:
        # Of the operating system: it ends with its process, however that ends, so a killed run blocks nobody. Not bound
        # to a thread: whoever ends a run may be another one than who began it.
        self._lock = FileLock(str(folder / LOCK), timeout=0, thread_local=False)
        note = folder / NOTE
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"log_path: got {str(folder)!r}, expected a folder that no other run is using: {_holder(note)} has it; "
                "wait for it, stop it, or take another log_path"
            ) from None
        # Beside the lock, which cannot be read while it is held.
        note.write_text(f"{os.getpid()}\n", encoding="utf-8")

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()


def _holder(note: Path) -> str:
    try:
        return f"pid {int(note.read_text(encoding='utf-8'))}"
    except (OSError, ValueError):
        return "another process"
