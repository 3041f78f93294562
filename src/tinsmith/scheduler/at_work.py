"""What this process is at, for whoever outlives it: the operations of a turn, and a snapshot that is being written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class AtWork:
    """Keeps what two threads are at and tells it as one.

    Args:
        tell: takes the ids of all operations that are being run, whenever they change.
    """

    def __init__(self, tell: Callable[[Iterable[str]], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._turn: tuple[str, ...] = ()
        self._writing: tuple[str, ...] = ()

    def begin(self, ids: Iterable[str]) -> None:
        """The host's thread is about to run these operations, or none."""
        with self._lock:
            self._turn = tuple(ids)
            self._tell((*self._turn, *self._writing))

    def write(self, ids: Iterable[str]) -> None:
        """The flusher's thread is about to write what these operations took, or nothing."""
        with self._lock:
            self._writing = tuple(ids)
            self._tell((*self._turn, *self._writing))
