"""The event loop on which rollouts live, in a thread of its own, watched for environments that block it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("tinsmith.cookbook")

# Seconds between two signs of life of the loop, and without one until it is said who blocks it.
_BEAT = 0.25
BLOCKED_AFTER = 5.0


class RolloutThread:
    """Runs coroutines beside a trainer that blocks; as a context manager, so that none outlives the run.

    Attributes:
        blocked_seconds: the longest time so far that one piece of synchronous code kept the loop from all else.
    """

    def __init__(self) -> None:
        self.blocked_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._last_beat = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tinsmith-rollouts", daemon=True)
        self._watch = threading.Thread(target=self._watch_loop, name="tinsmith-rollouts-watch", daemon=True)

    def __enter__(self) -> RolloutThread:
        self._thread.start()
        self._watch.start()
        self.submit(self._beat())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        # A loop that an environment blocks for good can't be stopped from outside; its thread ends with the process.
        self._thread.join(BLOCKED_AFTER)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            # Cancelled episodes close what they opened before the loop goes.
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            self.blocked_seconds = max(self.blocked_seconds, now - self._last_beat - _BEAT)
            self._last_beat = now
            await asyncio.sleep(_BEAT)

    def _watch_loop(self) -> None:
        said = False
        while not self._ended.wait(_BEAT):
            silent = time.monotonic() - self._last_beat
            if silent < BLOCKED_AFTER:
                said = False
            elif not said:
                said = True
                frame = sys._current_frames().get(self._thread.ident or 0)
                where = "".join(traceback.format_stack(frame)[-3:]) if frame else "?\n"
                logger.warning(
                    f"rollouts: synchronous code has blocked all environments for {silent:.0f} s; write it as plain "
                    f"`def` methods, or call it through asyncio.to_thread. It is here:\n{where}".rstrip()
                )
