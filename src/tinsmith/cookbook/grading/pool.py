"""The worker processes: started when first needed, one per processor, killed where an answer takes too long.

Not a pool of `multiprocessing` and none of Pebble's: both start workers by running the main script again, which has
torch in it and perhaps no `if __name__ == "__main__"`; both unpickle what comes back from a process that handles
hostile texts; and Pebble's pool is broken for good when an idle worker is killed.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from tinsmith.cookbook.grading.reasons import Reason

# sympy starts in a second; a machine under full load takes longer.
_START_SECONDS = 120.0
_MAX_WORKERS = 8
# A worker that has not used up its processor time after so many times as long waits for something, and will for ever.
_CLOCK = 10
# All that a worker needs of the environment; not the keys of whoever runs it.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class _Died(Exception):
    """The worker's end of the pipe is closed."""


class _Worker:
    """A process that answers one question at a time. Not for several threads at once.

    Raises:
        RuntimeError: it does not start.
    """

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # The same modules as here, however they are found; hash seeds decide in which order sympy sorts.
        own = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tinsmith.cookbook.grading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**kept, **own},
            # Ctrl-C is for the parent, which then closes the pipe.
            start_new_session=True,
        )
        try:
            ready = self._read(_START_SECONDS)
        except _Died:
            ready = None
        if ready != "ready":
            self.kill()
            raise RuntimeError("a grading worker does not start; what it said stands above, on standard error")

    def ask(self, given: str, reference: str, seconds: float) -> Reason:
        """Return the worker's reason. After any that is not its own, the process has ended.

        Raises:
            _Died: the process has ended for another cause than its limit of processor time.
        """
        question = json.dumps({"given": given, "reference": reference, "seconds": seconds})
        try:
            _open(self._process.stdin).write(question.encode() + b"\n")
            reply = self._read(seconds * _CLOCK)
        except (OSError, _Died) as error:
            self._process.kill()
            if self._process.wait() == -signal.SIGPROF:
                return Reason.TIMEOUT
            raise _Died from error
        if reply is None:
            self._process.kill()
            return Reason.TIMEOUT
        return Reason(reply)

    def _read(self, seconds: float) -> str | None:
        """Read one line, None where it does not come in time."""
        replies = _open(self._process.stdout)
        arrived = select.poll()
        arrived.register(replies, select.POLLIN)
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not arrived.poll(left * 1000):
                return None
            part = replies.read(256)
            if not part:
                raise _Died
            line += part
        return line.decode().strip()

    def interrupt(self) -> None:
        """End the process while another thread waits for its reply; that thread then sees that it died."""
        self._process.kill()

    def kill(self) -> None:
        """End the process, whatever it does, and let go of it."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def disown(self) -> None:
        """Let go of a process that belongs to the parent of this one."""
        self._process.returncode = 0
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            _open(pipe).close()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all of them are pipes
    return pipe


class Workers:
    """As many workers as there are processors, each with a thread that waits for it. Any thread may ask.

    Args:
        size: most workers; one is started when all others are busy.
    """

    def __init__(self, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="grading")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def submit(self, given: str, reference: str, seconds: float) -> Future[Reason]:
        """Ask a worker, which may take so many seconds of processor time.

        The future raises RuntimeError where workers do not start, or are closed.
        """
        return self._threads.submit(self._ask, given, reference, seconds)

    def _ask(self, given: str, reference: str, seconds: float) -> Reason:
        # Once more where the worker died: it may have been killed from outside, which is no fault of the answer.
        for _ in range(2):
            worker = self._take()
            try:
                reason = worker.ask(given, reference, seconds)
            except _Died:
                self._drop(worker)
                continue
            if reason is Reason.TIMEOUT:
                self._drop(worker)
            else:
                self._give_back(worker)
            return reason
        return Reason.FAILED

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise RuntimeError("grading: the workers are closed")
            worker = self._idle.pop() if self._idle else None
            if worker is not None:
                self._busy.add(worker)
                return worker
        worker = _Worker()
        with self._lock:
            self._busy.add(worker)
            if self._closed:
                worker.interrupt()
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            closed = self._closed
            if not closed:
                self._idle.append(worker)
        if closed:
            worker.kill()

    def _drop(self, worker: _Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
        worker.kill()

    def close(self) -> None:
        """End the workers, busy or not; what waits for one is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.interrupt()
        for worker in idle:
            worker.kill()
        self._threads.shutdown(wait=True)

    def disown(self) -> None:
        """Let go of the workers in a process that was forked: they, and the threads, are the parent's."""
        for worker in (*self._idle, *self._busy):
            worker.disown()


_workers: Workers | None = None
_lock = threading.Lock()


def ask(given: str, reference: str, seconds: float) -> Future[Reason]:
    """Ask a worker of this process about an answer; see `Workers.submit`."""
    global _workers
    with _lock:
        if _workers is None:
            _workers = Workers(min(_MAX_WORKERS, _processors()))
        return _workers.submit(given, reference, seconds)


def close() -> None:
    """End all workers of this process; the next question starts new ones."""
    global _workers
    with _lock:
        workers, _workers = _workers, None
    if workers is not None:
        workers.close()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _after_fork() -> None:
    global _workers, _lock
    _lock = threading.Lock()
    workers, _workers = _workers, None
    if workers is not None:
        workers.disown()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
