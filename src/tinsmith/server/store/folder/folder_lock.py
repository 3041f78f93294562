"""Who holds a data folder: an operating-system lock, and a note that names the holder."""

from __future__ import annotations

import json
import os
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tinsmith.types.errors import StartupError

# The name of the service that stores operations; embedded ones have random names.
SERVE = "serve"


class FolderLock:
    """An exclusive lock that ends with its process, however that ends.

    Args:
        path: the lock file; the note about the holder lies beside it as `<name>.json`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_suffix(".json")
        # It may be given back on another thread; it is never waited for, as a holder keeps it for its whole life.
        self._lock = FileLock(str(path), timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StartupError: another process has it; the message names that process.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.try_acquire():
            raise StartupError(f"data folder {self.path.parent}: held by {self.holder()}, expected a folder of its own")
        note = {
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        }
        self._note.write_text(json.dumps(note))

    def try_acquire(self) -> bool:
        """Take the lock if it is free; say whether it was."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    def holder(self) -> str:
        """Say who holds the lock: pid, start time, command."""
        try:
            note = json.loads(self._note.read_text())
            return f"pid {note['pid']}, started {note['started']}, command: {note['command']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process (which left no note of itself)"

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; with `remove`, its files too."""
        if remove:
            # Removed while still held: whoever opens the path afterwards makes a new file.
            self._note.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self._lock.release()


@dataclass(frozen=True, slots=True)
class Claim:
    """A service's hold on a data folder.

    Attributes:
        instance: its name there.
        lock: held while the service lives.
        exclusive: whether it is the one that stores operations.
        dead: embedded services whose process is gone, each with its lock, now held by this service.
    """

    instance: str
    lock: FolderLock
    exclusive: bool
    dead: list[tuple[str, FolderLock]]

    def release(self) -> None:
        """Give the folder back; what is left of dead services is left to the next one."""
        for _, lock in self.dead:
            lock.release()
        self.lock.release(remove=not self.exclusive)


def claim(root: Path, *, exclusive: bool) -> Claim:
    """Take hold of a data folder.

    Args:
        exclusive: as the one service that stores operations; otherwise as one of any number of embedded ones.

    Raises:
        StartupError: the folder has its one service already; the message names that process.
    """
    lock = FolderLock(root / "serve.lock")
    if exclusive:
        lock.acquire()
    instances = root / "instances"
    instances.mkdir(exist_ok=True)
    with FileLock(str(root / "instances.lock")):  # a new instance must not be taken for a dead one
        dead = dead_instances(instances)
        if exclusive:
            return Claim(SERVE, lock, exclusive, dead)
        instance, lock = new_instance(instances)
        return Claim(instance, lock, exclusive, dead)


def new_instance(folder: Path) -> tuple[str, FolderLock]:
    """Return the id and the held lock of a new embedded service."""
    instance = uuid.uuid4().hex
    lock = FolderLock(folder / f"{instance}.lock")
    lock.acquire()
    return instance, lock


def claim_dead(root: Path) -> list[tuple[str, FolderLock]]:
    """Return a data folder's embedded services whose process is gone, each with its lock, now held by the caller."""
    with FileLock(str(root / "instances.lock")):
        return dead_instances(root / "instances")


def dead_instances(folder: Path) -> list[tuple[str, FolderLock]]:
    """Return the embedded services whose process is gone, each with its lock, now held by the caller."""
    found: list[tuple[str, FolderLock]] = []
    for path in sorted(folder.glob("*.lock")):
        lock = FolderLock(path)
        # The system frees a lock with its process, so whoever left one that is free is gone.
        if lock.try_acquire():
            found.append((path.stem, lock))
    return found
