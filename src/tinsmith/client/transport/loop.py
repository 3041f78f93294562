"""The one background event loop of the process: all of the SDK's traffic runs on it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """An event loop on a daemon thread, so that user code stays plain and blocking while requests overlap."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # A daemon: a script that ends, or dies of an error, is not kept alive by it. What is to be done before the
        # end is registered with `at_shutdown`.
        self._loop = asyncio.new_event_loop()
        self._live: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="tinsmith-sdk", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop from any thread; coroutines begin in the order of the calls."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        # asyncio itself holds tasks weakly; this is what keeps one alive while nobody looks at its future.
        self._live.add(future)
        future.add_done_callback(self._live.discard)
        return future

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the loop soon."""
        self._loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        """Whether the calling code runs on this loop's thread, where blocking would stop everything."""
        return threading.current_thread() is self._thread


# Re-entrant: the garbage collector may end a session from within any call.
_lock = threading.RLock()
_instance: BackgroundLoop | None = None


def background() -> BackgroundLoop:
    """Return the process's loop, started at first use and again in a forked child."""
    global _instance
    with _lock:
        if _instance is None or _instance.pid != os.getpid():
            _instance = BackgroundLoop()
        return _instance


def on_loop() -> bool:
    """Whether the calling code runs on the SDK's own loop."""
    return _instance is not None and _instance.is_current()


# In the order of registration: sessions are ended before the embedded service that they belong to.
_endings: list[Callable[[], object]] = []


def at_shutdown(function: Callable[[], object]) -> None:
    """Call a function when the interpreter ends, while worker threads still take work; the first comes first."""
    if not _endings:
        # `atexit` runs after the interpreter has closed its thread pools, which name resolution and file work need.
        # What is registered last runs first, so theirs comes before ours.
        import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]

        register: Callable[[Callable[[], object]], object] = getattr(threading, "_register_atexit")  # noqa: B009
        register(_run_endings)
    _endings.append(function)


def _run_endings() -> None:
    for function in _endings:
        function()
