"""A disk that is slow or full."""

from __future__ import annotations

import threading
from typing import Any

import anyio.to_thread
from sqlalchemy.exc import OperationalError

from tests.server.conftest import Running


class Disk:
    """Holds up the commits of a service, or refuses them."""

    def __init__(self, running: Running) -> None:
        self.full = False
        self._go, self._reached = threading.Event(), threading.Event()
        self._go.set()
        writer = running.service.core.db.writer
        commit = writer._commit

        def held(items: list[Any]) -> None:
            self._reached.set()
            self._go.wait(5.0)  # where a test fails, its service must be able to stop
            for item in items if self.full else ():
                item.error = OperationalError("COMMIT", {}, Exception("database or disk is full"))
            if not self.full:
                commit(items)

        writer._commit = held

    def hold(self) -> None:
        self._reached.clear()
        self._go.clear()

    async def reached(self) -> None:
        """Wait until something is being written."""
        assert await anyio.to_thread.run_sync(self._reached.wait, 5.0)

    def go_on(self) -> None:
        self._go.set()
