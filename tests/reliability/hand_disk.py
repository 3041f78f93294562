"""The writer of a real database whose commits a test lets through, holds up, refuses or loses."""

from __future__ import annotations

import asyncio
from collections import deque
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
        self.commits = 0
        self.guard = None
        # A life may end after any commit: nothing stays open from one to the next.
        self._keeps = False
        self._kept = None
        self.full = False
        self.held = False
        self._waiting: list[_Item] = []
        self._patient: deque[_Item] = deque()
        self._gone = False

    def _put(self, job: Job | RowWrite) -> asyncio.Future[Any]:
        return self._take(self._item(job), self._waiting)

    def submit_patient(self, job: Job) -> asyncio.Future[Any]:
        return self._take(self._item(job), self._patient)

    def _take(self, item: _Item, waiting: list[_Item] | deque[_Item]) -> asyncio.Future[Any]:
        if not self._gone:
            waiting.append(item)
            # Once whoever runs now has had his turn, in one group with what comes until then.
            item.loop.call_soon(self._commit_waiting)
        return item.future

    def _commit_waiting(self) -> None:
        # Patient ones each by itself, and only when nothing else waits: whatever may overtake them does.
        while not self.held and (self._waiting or self._patient):
            if self._waiting:
                items, self._waiting = self._waiting, []
            else:
                items = [self._patient.popleft()]
            self._commit_group(items)

    def _commit_group(self, items: list[_Item]) -> None:
        if self.full:
            for item in items:
                item.error = OperationalError("COMMIT", {}, Exception("database or disk is full"))
        else:
            self._commit(items)
        _deliver(items)

    @property
    def busy(self) -> bool:
        """Whether something waits to be committed."""
        return bool(self._waiting or self._patient)

    def lose(self) -> None:
        """Forget what is not committed; nothing is stored from now on."""
        self._gone = True
        self._waiting.clear()
        self._patient.clear()

    def finish(self) -> None:
        self._commit_waiting()
