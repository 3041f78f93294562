"""Functions of others, called for a limited time: plain ones in threads, coroutines beside the one who waits."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

# Threads at a time for one loop: a batch may make a thousand calls, and each may want a connection of its own.
_PLACES = 64
_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

# What a function came to: called, it returns that or raises it.
Outcome = Callable[[], Any]


class TimeIsUpError(Exception):
    """A function has not come to an end in time; not to be mixed up with a TimeoutError that it raised itself."""


async def call_in_thread(function: Callable[[], Any], seconds: float) -> Any:
    """Call a function in a thread and return what it returns.

    A thread cannot be ended from outside. One whose time is up is left to itself: it keeps neither its place nor, being
    a daemon, the process from ending, which is why this is no `ThreadPoolExecutor`.

    Args:
        function: what to call.
        seconds: that it may take; waiting for a place does not count.

    Raises:
        TimeIsUpError: it has not come to an end.
        BaseException: what the function raised.
    """
    loop = asyncio.get_running_loop()
    async with _places.setdefault(loop, asyncio.Semaphore(_PLACES)):
        done: asyncio.Future[Outcome] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                result = context.run(function)
            # SystemExit too: a function that exits is a function that failed.
            except BaseException as error:
                _settle(loop, done, _raising(error))
            else:
                _settle(loop, done, lambda: result)

        threading.Thread(target=run, name="tinsmith-tool", daemon=True).start()
        outcome = await _in_time(done, seconds)
    return outcome()


async def call_beside(function: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """Call a coroutine function in a task of its own and return what it returns; as `call_in_thread`.

    Where the time is up the task is cancelled and not waited for: it may refuse.
    """

    async def run() -> Outcome:
        try:
            result = await function()
        # SystemExit too: raised out of a task, it would end the loop and all that lives on it.
        except BaseException as error:
            return _raising(error)
        return lambda: result

    outcome = await _in_time(asyncio.ensure_future(run()), seconds)
    return outcome()


async def _in_time(done: asyncio.Future[Outcome], seconds: float) -> Outcome:
    try:
        await asyncio.wait({done}, timeout=seconds)
        if not done.done():
            raise TimeIsUpError
        return done.result()
    finally:
        done.cancel()


def _settle(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Outcome], outcome: Outcome) -> None:
    def settle() -> None:
        if not done.done():
            done.set_result(outcome)

    # The loop is gone where a thread that was left behind comes to its end after the run.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)


def _raising(error: BaseException) -> Outcome:
    def outcome() -> Any:
        if isinstance(error, asyncio.CancelledError):
            # It would pass for the end of the one who waits.
            raise RuntimeError("it was cancelled from inside") from error
        raise error

    return outcome
