"""What a model's training operations came to: how many steps were taken, and what failed on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from tinsmith.client.transport.outcomes import Outcome

logger = logging.getLogger("tinsmith")


class TrainingRecord:
    """Follows the operations that change one model's weights, so that what depends on them can say what failed.

    Operations are numbered in the order of the calls, and a position in that order is the number of the next one.

    Attributes:
        steps: optimizer steps taken since the client was made.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._next = 0
        # The weights are those of a state that was loaded at this position: what failed earlier is of no consequence.
        self._since = 0
        self._failures: dict[int, Outcome] = {}
        self._running: set[Future[Any]] = set()
        self._told = 0

    def follow(self, running: Future[Any]) -> Callable[[Outcome, bool], None]:
        """Follow an operation that was submitted, and return what is to be told how it ended."""
        number, self._next = self._next, self._next + 1
        self._running.add(running)
        return partial(self._ended, number, running)

    def _ended(self, number: int, running: Future[Any], outcome: Outcome, cancelled: bool) -> None:
        self._running.discard(running)
        if outcome.reason is not None:
            self._failures[number] = outcome
        elif not cancelled:
            self.steps += outcome.operation == "optim_step"
            if outcome.operation == "load_state":
                self._since = number + 1
                self._failures = {at: failed for at, failed in self._failures.items() if at > number}

    @property
    def position(self) -> int:
        """Where in the order the next call comes."""
        return self._next

    def running(self) -> list[Future[Any]]:
        """Return what was submitted and is not done."""
        return list(self._running)

    def failures(self, before: int | None = None) -> list[Outcome]:
        """Return what failed, in the order of the calls, up to a position in it."""
        return [failed for at, failed in sorted(self._failures.items()) if before is None or at < before]

    def tell(self, operation: str, before: int, *, again: bool = False) -> None:
        """Warn that an operation depends on others that failed.

        Args:
            operation: what depends on them.
            before: its position.
            again: warn of failures that were told before, too: what is saved is found long after the log was read.
        """
        failures = self.failures(before)
        latest = max((at for at in self._failures if at < before), default=-1) + 1
        if not failures or (latest <= self._told and not again):
            return
        self._told = max(self._told, latest)
        logger.warning(
            "%s: %d of the %d training operations before it failed, so the weights lack them; the first is %s: %s",
            operation,
            len(failures),
            before - self._since,
            failures[0].operation,
            failures[0].reason,
        )
        for outcome in failures:
            outcome.look()

    def facts(self, before: int) -> dict[str, Any]:
        """Return what the answer to a save at a position says of failures before it."""
        failures = self.failures(before)
        first = f"{failures[0].operation}: {failures[0].reason}" if failures else None
        return {"failed_operations": len(failures), "first_failure": first}
