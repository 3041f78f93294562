"""Futures: results that blocking code takes with `.result()` and asynchronous code with `await`."""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from tinsmith.client.transport.loop import on_loop
from tinsmith.client.transport.outcomes import OperationFuture

T = TypeVar("T")

logger = logging.getLogger("tinsmith")


def wait_blocking(future: Future[T], timeout: float | None = None) -> T:
    """Wait for a future of the SDK's loop; Ctrl-C interrupts the wait.

    Args:
        future: what to wait for.
        timeout: longest wait in seconds; None waits as long as it takes.

    Raises:
        TimeoutError: the timeout has passed; the operation goes on.
        RuntimeError: called on the SDK's own loop, which would wait for itself.
    """
    # The result comes from this very thread: waiting here, it would never come.
    if not future.done() and on_loop():
        raise RuntimeError("result() on the SDK's own event loop would wait for itself: await the future instead")
    return future.result(timeout)


_warned = False


def _warn_in_coroutine() -> None:
    global _warned
    # A notebook's cells run inside a loop that has nothing else to do meanwhile, whatever kernel runs them.
    if _warned or _is_interactive():
        return
    try:
        # None where a loop runs but no coroutine of it does, as in the prompt of `python -m asyncio`.
        task = asyncio.current_task()
    except RuntimeError:
        return
    if task is not None:
        _warned = True
        logger.warning("result() inside a coroutine stops its event loop until the result is there; `await` does not")


def _is_interactive() -> bool:
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)


async def share(future: Future[T]) -> T:
    """Wait for a future that others wait for too: cancelling the waiting leaves it running."""
    # `wrap_future` hands a cancellation on to what it wraps; the shield stops it here.
    return await asyncio.shield(asyncio.wrap_future(future))


class APIFuture(ABC, Generic[T]):
    """The result of an operation that was submitted already.

    `future.result()` blocks, `await future` does not; both may be called any number of times.
    """

    @abstractmethod
    def future(self) -> Future[T]:
        """Return the `concurrent.futures.Future` behind it, for `wait`, `as_completed` or callbacks.

        Cancelling it stops a sampling operation, and the waiting for any other: what trains or saves, once submitted,
        is carried out.
        """

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, blocking.

        Args:
            timeout: longest wait in seconds; None waits as long as it takes.

        Raises:
            TimeoutError: the timeout has passed; the operation goes on.
            RequestFailedError: the operation failed.
            APIError: the service could not be reached or refused the request.
        """
        future = self.future()
        # Here alone: a method that blocks and has no other form, such as `get_tokenizer`, gives no choice.
        if not future.done():
            _warn_in_coroutine()
        return wait_blocking(future, timeout)

    async def result_async(self, timeout: float | None = None) -> T:
        """Wait for the result without blocking; arguments and errors as for `result`."""
        # No shield: cancelling a task that awaits a sampling operation is meant to stop the operation.
        waiter = asyncio.wrap_future(self.future())
        if timeout is not None:
            # `wait` and not `wait_for`, which would cancel the operation when the time is over.
            done, _ = await asyncio.wait([waiter], timeout=timeout)
            if not done:
                raise TimeoutError(f"no result within {timeout} s")
        return await waiter

    async def coroutine(self) -> T:
        """The future as a coroutine, for `asyncio.create_task` and the like."""
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()

    def done(self) -> bool:
        """Whether the result or the error is there."""
        return self.future().done()

    def cancel(self) -> bool:
        """Cancel as `future().cancel()` does."""
        return self.future().cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.future().cancelled()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return the error, or None where there is none."""
        return self.future().exception(timeout)

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback` with the concurrent future once the result is there."""
        self.future().add_done_callback(callback)


def state_of(future: Future[Any]) -> str:
    """Say in a word or two where a future stands; asking does not count as having looked at its error."""
    if future.cancelled():
        return "cancelled"
    if not future.done():
        return "pending"
    reason = future.outcome.reason if isinstance(future, OperationFuture) else None
    return "done" if reason is None else f"failed: {reason}"


class Pending(APIFuture[T]):
    """An `APIFuture` around a future of the SDK's loop."""

    def __init__(self, future: OperationFuture[T]) -> None:
        self._future = future

    def future(self) -> Future[T]:
        """Return the `concurrent.futures.Future` behind it."""
        return self._future

    def __repr__(self) -> str:
        return f"<APIFuture {self._future.outcome.operation}: {state_of(self._future)}>"
