"""Writes sampler snapshots to disk on a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

logger = logging.getLogger(__name__)

# A full disk is often freed by hand. Until then the journal grows, so a minute between attempts is long enough.
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Flush:
    """One snapshot to be written.

    Attributes:
        request_id: the SNAPSHOT operation.
        sampler_id: what to write.
        folder: where; a folder that exists is complete, because it is written aside and then renamed.
        write: writes it.
    """

    request_id: str
    sampler_id: str
    folder: str
    write: Callable[[], object]


class Flusher:
    """A queue of snapshots and the thread that writes them.

    A write that fails (a full disk, say) is tried again until it succeeds or the sampler is let go: until then the
    journal is kept, so nothing is lost.

    Args:
        on_done: called on the flusher's thread with (flush, whether it is on disk).
    """

    def __init__(self, on_done: Callable[[Flush, bool], None]) -> None:
        self._on_done = on_done
        self._queue: SimpleQueue[Flush | None] = SimpleQueue()
        # Changed on the host's thread only; the flusher's own thread reads `_unwanted`, which is safe for a set.
        self._busy: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        self._stopping = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, flush: Flush) -> None:
        """Write a snapshot soon."""
        self._busy[flush.sampler_id] += 1
        self._queue.put(flush)
        # A host that takes no snapshots needs no thread.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tinsmith-flusher", daemon=True)
            self._thread.start()

    def holds(self, sampler_id: str) -> bool:
        """Whether the sampler's weights are still needed for writing."""
        return self._busy[sampler_id] > 0

    def abandon(self, sampler_id: str) -> None:
        """The sampler is about to be released: don't try again to write it."""
        if self.holds(sampler_id):
            self._unwanted.add(sampler_id)
            self._wake.set()

    def forget(self, flush: Flush) -> None:
        """Let go of a sampler's weights; called on the host's thread once it has seen the outcome."""
        self._busy[flush.sampler_id] -= 1
        if not self._busy[flush.sampler_id]:
            del self._busy[flush.sampler_id]
            self._unwanted.discard(flush.sampler_id)

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds, and end the thread."""
        # In this order: a write that fails sees that it need not be tried again, and the thread ends after the queue.
        self._stopping = True
        self._wake.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (flush := self._queue.get()) is not None:
            self._on_done(flush, self._write(flush))

    def _write(self, flush: Flush) -> bool:
        delay = _FIRST_RETRY_S
        # A replay may take a snapshot again whose files are there: the last host died before it could say so.
        while not Path(flush.folder).exists():
            if flush.sampler_id in self._unwanted:
                return False
            try:
                flush.write()
            except Exception as error:
                # The end of a session removes its folders, perhaps ahead of the release: that is no fault.
                removed = isinstance(error, FileNotFoundError) and delay == _FIRST_RETRY_S
                if not removed and flush.sampler_id not in self._unwanted:
                    logger.exception("sampler %s could not be written to %s", flush.sampler_id, flush.folder)
                if self._stopping:
                    return False
                self._wake.wait(delay)
                self._wake.clear()
                delay = min(2 * delay, _LAST_RETRY_S)
        return True
