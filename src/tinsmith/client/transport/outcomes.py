"""What became of the operations that were submitted: an error that nobody looks at is told before it is too late."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("tinsmith")

# Different errors named at the end; the rest is counted.
_NAMED = 5
# A reason is one line of a log.
_LONGEST_REASON = 300


@dataclass(eq=False)
class Outcome:
    """What is known of one operation.

    Attributes:
        operation: the method that submitted it.
        reason: why it failed, in one line; None while it runs, and where it went well.
        seen: whether its error was handed to somebody, or told in the log.
        cause: what failed before it and took it along, such as the creation of its model.
    """

    operation: str
    reason: str | None = None
    seen: bool = False
    cause: Outcome | None = None

    def look(self) -> None:
        """Note that somebody has the error."""
        self.seen = True
        if self.cause is not None:
            self.cause.seen = True


class OperationFuture(Future[T]):
    """The future of an operation; it notes whether anybody asked for its result or its error.

    Args:
        outcome: where that is noted.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome

    def result(self, timeout: float | None = None) -> T:
        """As of `concurrent.futures.Future`."""
        try:
            return super().result(timeout)
        finally:
            self._look()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of `concurrent.futures.Future`."""
        try:
            return super().exception(timeout)
        finally:
            self._look()

    def peek(self) -> T:
        """Return the result, or raise the error, of an operation that has ended, without having looked at it."""
        return super().result()

    def _look(self) -> None:
        # Not after a timeout: whoever waited in vain has seen nothing.
        if self.done():
            self.outcome.look()


class Outcomes:
    """The failed operations of one connection, until they are told."""

    def __init__(self) -> None:
        self._failed: list[Outcome] = []
        self._closed = False
        self._lock = threading.Lock()

    def watch(
        self,
        running: Future[T],
        operation: str,
        cause: Outcome | None = None,
        ended: Callable[[Outcome, bool], object] | None = None,
    ) -> OperationFuture[T]:
        """Return the future to hand out for an operation that runs.

        Args:
            running: gives the result; cancelling what is returned cancels it.
            operation: the method that submitted it.
            cause: what this operation fails of where that has failed.
            ended: is told the outcome, and whether the operation was cancelled, before anybody gets the result: a
                callback of the returned future comes after those who wait are woken.
        """
        handed = OperationFuture[T](Outcome(operation))
        # Weak: the two would otherwise hold each other, and a result would stay until garbage is collected.
        behind = weakref.ref(running)

        def pass_on(future: Future[T]) -> None:
            if future.cancelled():
                handed.cancel()
            # False where it was cancelled; the waiters are told then, too.
            cancelled = not handed.set_running_or_notify_cancel()
            error = None if cancelled else future.exception()
            if error is not None:
                self._note(handed.outcome, error, cause)
            if ended is not None:
                ended(handed.outcome, cancelled)
            if error is not None:
                handed.set_exception(error)
            elif not cancelled:
                handed.set_result(future.result())

        def cancel(future: Future[T]) -> None:
            running = behind()
            if future.cancelled() and running is not None:
                running.cancel()

        running.add_done_callback(pass_on)
        handed.add_done_callback(cancel)
        return handed

    def _note(self, outcome: Outcome, error: BaseException, cause: Outcome | None) -> None:
        outcome.reason = one_line(error)
        if cause is not None and cause.reason == outcome.reason:
            outcome.cause = cause
        with self._lock:
            if self._closed:
                return
            # Those that were looked at are of no use any more, except as the reason of others.
            if len(self._failed) > 1000:
                self._failed = [kept for kept in self._failed if not kept.seen]
            self._failed.append(outcome)
        _with_failures.add(self)

    def close(self) -> None:
        """Forget what failed, and what still will: the end of the connection cuts off whatever is under way."""
        with self._lock:
            self._failed, self._closed = [], True
        _with_failures.discard(self)

    def tell(self) -> None:
        """Name in the log, once, what failed without anybody looking at it."""
        with self._lock:
            failed, self._failed = self._failed, []
        seen = [outcome.reason for outcome in failed if outcome.seen and outcome.reason]
        untold = [outcome for outcome in failed if not outcome.seen and not _follows(outcome, seen)]
        _with_failures.discard(self)
        if not untold:
            return
        kinds = Counter((outcome.operation, outcome.reason) for outcome in untold)
        named = [
            f"{operation}{f' ({count} times)' if count > 1 else ''}: {reason}"
            for (operation, reason), count in list(kinds.items())[:_NAMED]
        ]
        rest = len(kinds) - len(named)
        logger.warning(
            "%s failed, and nobody asked for the result (call .result() or await it):\n  %s%s",
            "1 operation" if len(untold) == 1 else f"{len(untold)} operations",
            "\n  ".join(named),
            f"\n  and {rest} other errors" if rest else "",
        )
        for outcome in untold:
            outcome.look()


def _follows(outcome: Outcome, seen: list[str]) -> bool:
    """Whether an operation failed of something that is known: of its cause, or of an error that its own quotes."""
    if outcome.cause is not None:
        return True  # the cause is seen, or is named itself
    return any(reason in (outcome.reason or "") and reason != outcome.reason for reason in seen)


async def all_ended(futures: Iterable[Future[Any]], timeout: float | None = None) -> None:
    """Wait until operations have ended, well or not; their errors stay unseen.

    Args:
        futures: of the operations.
        timeout: longest wait in seconds.
    """
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Future[None]] = set()
    for future in futures:
        ended: asyncio.Future[None] = loop.create_future()
        waiting.add(ended)
        future.add_done_callback(partial(_end_soon, loop, ended))
    if waiting:
        await asyncio.wait(waiting, timeout=timeout)


def _end_soon(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None], _: Future[Any]) -> None:
    # The loop of a program may be over by the time that an operation ends.
    if not loop.is_closed():
        loop.call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def peek(future: OperationFuture[T]) -> T:
    """Wait for what another operation needs: its error becomes that other's, and is for whoever waits for that one."""
    if not future.done():
        await all_ended([future])
    return future.peek()


def one_line(error: BaseException) -> str:
    """Return an error's message in one line; an error without one, by its name."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


# Held here while there is something to tell: the client that it belongs to may be gone by then.
_with_failures: set[Outcomes] = set()


def tell_all() -> None:
    """Tell what is left at the end of the process."""
    for outcomes in list(_with_failures):
        outcomes.tell()
