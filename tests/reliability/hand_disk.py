"""The writer of a real database whose commits a test lets through, holds up, refuses or loses."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from tinsmith.server.store.db.writer import Job, RowWrite, Writer, _deliver, _Item


class HandWriter(Writer):
    """A writer without a thread; its transactions are the real ones.

    Attributes:
        full: commits fail.
        held: commits wait.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.guard = None
        self.full = False
        self.held = False
        self._waiting: list[_Item] = []
        self._gone = False

    def _put(self, job: Job | RowWrite) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._gone:
            self._waiting.append(_Item(job, future, loop))
            # Once whoever runs now has had his turn, in one group with what comes until then.
            loop.call_soon(self._commit_waiting)
        return future

    def _commit_waiting(self) -> None:
        if self.held or not self._waiting:
            return
        items, self._waiting = self._waiting, []
        if self.full:
            for item in items:
                item.error = OperationalError("COMMIT", {}, Exception("database or disk is full"))
        else:
            self._commit(items)
        _deliver(items)

    @property
    def busy(self) -> bool:
        """Whether something waits to be committed."""
        return bool(self._waiting)

    def lose(self) -> None:
        """Forget what is not committed; nothing is stored from now on."""
        self._gone = True
        self._waiting.clear()

    def finish(self) -> None:
        self._commit_waiting()
