"""An event loop on which waiting takes no time, and threads that are none, so that a history is the same each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

# Longer than any wait inside the service; on this loop it costs nothing.
_LONGEST_S = 600.0


class _Jump(selectors.DefaultSelector):
    """Moves the loop's clock on instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("what is waited for never comes: nothing is left that could wake it")
        self.now += max(0.0, timeout)
        return super().select(0)


class HandLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def do(self, work: Awaitable[T]) -> T:
        """Run to the end; between these calls nothing moves.

        Raises:
            TimeoutError: it waits for something that does not come.
        """

        async def in_time() -> T:
            return await asyncio.wait_for(work, _LONGEST_S)

        return self.run_until_complete(in_time())

    def end(self) -> None:
        """Cancel what still runs, and close."""

        async def cancel() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.run_until_complete(cancel())
        self.close()


async def at_once(function: Callable[..., T], *args: Any, **_: Any) -> T:
    """Stand in for `anyio.to_thread.run_sync`: others run before and after, but not meanwhile."""
    await asyncio.sleep(0)
    result = function(*args)
    await asyncio.sleep(0)
    return result
