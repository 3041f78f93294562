"""Collects the events of a link and waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tinsmith.types.engine_messages.host_events import Event, Failure, Result
from tinsmith.types.engine_messages.operations import Operation

E = TypeVar("E")


class Listener:
    """Give `on_event` to a link."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, found: Callable[[], E], timeout: float = 60.0) -> E:
        """Wait until `found()` is true and return it."""
        async with asyncio.timeout(timeout):
            while not (value := found()):
                self._changed.clear()
                await self._changed.wait()
            return value

    async def answer(self, op: Operation) -> Result | Failure:
        """Wait for the answer to an operation."""
        return (await self.until(lambda: self.answers(op)))[0]

    def answers(self, op: Operation) -> list[Result | Failure]:
        """Return the answers to an operation so far."""
        return [e for e in self.events if isinstance(e, Result | Failure) and e.request_id == op.request_id]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one type."""
        return [e for e in self.events if isinstance(e, kind)]
