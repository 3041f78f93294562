"""Writes sampler snapshots to disk on a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

logger = logging.getLogger(__name__)

# A full disk is often freed by hand. Until then the journal grows, so a minute between attempts is long enough.
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
# A snapshot is written so long after it was taken, seconds: its client is being answered, and writing it would take the
# interpreter and a core from that. Until it is on disk the journal has the step, as before.
_CALM_S = 0.02


@dataclass(frozen=True, slots=True)
class Flush:
    """One snapshot to be written.

    Attributes:
        request_id: the SNAPSHOT operation.
        sampler_id: what to write.
        folder: where; a folder that exists is complete, because it is written aside and then renamed.
        write: writes it.
        taken_at: when, on the monotonic clock.
    """

    request_id: str
    sampler_id: str
    folder: str
    write: Callable[[], object]
    taken_at: float = field(default_factory=time.monotonic)


# In the queue: nothing to write, but something is no longer wanted.
_LOOK = Flush("", "", "", lambda: None)


class SnapshotWriter(Protocol):
    """What the scheduler needs of whatever writes snapshots; each is told of once, when it is on disk or given up."""

    def add(self, flush: Flush) -> None: ...
    def write_now(self, flush: Flush) -> None: ...
    def holds(self, sampler_id: str) -> bool: ...
    def abandon(self, sampler_id: str) -> None: ...
    def forget(self, flush: Flush) -> None: ...
    def close(self, timeout: float) -> None: ...


class Flusher:
    """A queue of snapshots and the thread that writes them.

    A write that fails (a full disk, say) is tried again, after the others, until it succeeds or the sampler is let go:
    until then the journal is kept, so nothing is lost.

    Args:
        on_done: called with (flush, whether it is on disk), on the flusher's thread but for `write_now`.
        begin: told the operations whose snapshots are about to be written, and of none when that is over.
    """

    def __init__(
        self, on_done: Callable[[Flush, bool], None], begin: Callable[[Iterable[str]], None] = lambda ids: None
    ) -> None:
        self._on_done = on_done
        self._begin = begin
        self._queue: SimpleQueue[Flush | None] = SimpleQueue()
        # Changed on the host's thread only; the flusher's own thread reads `_unwanted`, which is safe for a set.
        self._busy: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        self._stopping = False
        self._hurry = threading.Event()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, flush: Flush) -> None:
        """Write a snapshot soon."""
        self._busy[flush.sampler_id] += 1
        self._queue.put(flush)
        # A host that takes no snapshots needs no thread.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tinsmith-flusher", daemon=True)
            self._thread.start()

    def write_now(self, flush: Flush) -> None:
        """Write a snapshot on the caller's thread, where nothing else runs: a process was lost while one wrote it."""
        try:
            if not Path(flush.folder).exists():
                flush.write()
        except Exception:
            logger.exception("sampler %s could not be written to %s", flush.sampler_id, flush.folder)
            self.add(flush)
            return
        self._busy[flush.sampler_id] += 1
        self._done(flush, True)

    def holds(self, sampler_id: str) -> bool:
        """Whether the sampler's weights are still needed for writing."""
        return self._busy[sampler_id] > 0

    def abandon(self, sampler_id: str) -> None:
        """The sampler is about to be released: don't try again to write it."""
        if self.holds(sampler_id):
            self._unwanted.add(sampler_id)
            self._queue.put(_LOOK)

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
        self._hurry.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        late: list[_Late] = []
        # Until there is nothing more to come; what failed until then is then not tried again.
        while True:
            # First what is due, so that a queue that is never empty does not keep it from its turn; its next is later.
            if late and not late[0].wait():
                due = heappop(late)
                self._attempt(due.flush, min(2 * due.delay, _LAST_RETRY_S), late)
            try:
                flush = self._queue.get(timeout=late[0].wait() if late else None)
            except Empty:
                continue
            if flush is None:
                break
            if flush is not _LOOK:
                self._hurry.wait(flush.taken_at + _CALM_S - time.monotonic())
                self._attempt(flush, _FIRST_RETRY_S, late)
            # Those that are let go of need not wait for their turn to be told so.
            for gone in [one for one in late if one.flush.sampler_id in self._unwanted]:
                late.remove(gone)
                self._done(gone.flush, False)
            heapify(late)
        for left in late:
            self._done(left.flush, False)

    def _attempt(self, flush: Flush, delay: float, late: list[_Late]) -> None:
        """Write a snapshot, or put it aside for later: others must not wait behind one that cannot be written."""
        if flush.sampler_id in self._unwanted:
            self._done(flush, False)
            return
        try:
            # A replay may take a snapshot again whose files are there: the last host died before it could say so.
            if not Path(flush.folder).exists():
                self._begin((flush.request_id,))
                flush.write()
        except Exception as error:
            # The end of a session removes its folders, perhaps ahead of the release: that is no fault.
            removed = isinstance(error, FileNotFoundError) and delay == _FIRST_RETRY_S
            if not removed and flush.sampler_id not in self._unwanted:
                logger.exception("sampler %s could not be written to %s", flush.sampler_id, flush.folder)
            if self._stopping:
                self._done(flush, False)
            else:
                heappush(late, _Late(time.monotonic() + delay, next(self._numbers), flush, delay))
        else:
            self._done(flush, True)
        finally:
            self._begin(())

    def _done(self, flush: Flush, written: bool) -> None:
        # Whatever goes wrong in telling, the thread lives on: it is the only one that writes.
        try:
            self._on_done(flush, written)
        except Exception:
            logger.exception("the outcome of writing sampler %s could not be told", flush.sampler_id)


@dataclass(order=True, slots=True)
class _Late:
    """A snapshot that could not be written.

    Attributes:
        due: when to try again, on the monotonic clock.
        number: breaks ties.
        flush: the snapshot.
        delay: seconds before this attempt; the next waits twice as long.
    """

    due: float
    number: int
    flush: Flush = field(compare=False)
    delay: float = field(compare=False)

    def wait(self) -> float:
        """Seconds until it is due."""
        return max(0.0, self.due - time.monotonic())
