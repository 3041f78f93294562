"""Background tasks that are held on to, log their errors and end with the service; and work that is never cut short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from tinsmith.server.faults import NotOurs

log = logging.getLogger("tinsmith.server")

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for work that goes on to its end, also where the request that waits for it goes away.

    For whatever changes both memory and database: what is queued to be written will be committed, so that memory must
    not be changed back, and a repeat of the request finds what the first one has left.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


class Tasks:
    """A set of running tasks."""

    def __init__(self) -> None:
        # The event loop refers to its tasks weakly: one that nobody holds may vanish half-way.
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = task.exception() if not task.cancelled() else None
        if error is not None and not isinstance(error, NotOurs):
            log.error("a background task failed", exc_info=error)

    async def finish(self, seconds: float) -> None:
        """Wait until all are done, for at most so long, and cancel the rest."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)
        await self.stop()

    async def stop(self) -> None:
        """Cancel what is running and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
