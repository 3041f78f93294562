"""A line of operations: each has its turn in the order in which the tickets were drawn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Line:
    """Tickets are drawn from any thread at call time; turns are taken on the event loop, one at a time."""

    def __init__(self) -> None:
        self._tickets = itertools.count()
        self._serving = 0
        self._waiting: dict[int, asyncio.Event] = {}

    def ticket(self) -> int:
        """Draw the next ticket; whoever draws one must take its turn."""
        return next(self._tickets)

    @asynccontextmanager
    async def turn(self, ticket: int) -> AsyncGenerator[None]:
        """Wait until all earlier tickets have had their turn, and hold the line meanwhile."""
        if ticket != self._serving:
            event = self._waiting[ticket] = asyncio.Event()
            await event.wait()
        try:
            yield
        finally:
            self._serving += 1
            after = self._waiting.pop(self._serving, None)
            if after is not None:
                after.set()
