"""One thread that writes: whatever is queued goes into one transaction, so that one commit serves many requests."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Insert, Update

T = TypeVar("T")
Job = Callable[[Connection], Any]

# Bounds the time that the first request of a group waits for the last one.
_GROUP = 256
# Requests that are woken in one round of the event loop. Each has an answer to write, and whatever else came in
# meanwhile, a heartbeat say, waits for the end of the round.
_WOKEN_AT_ONCE = 8
# A patient job is done after so long, seconds, even where requests follow each other without a gap.
_PATIENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class RowWrite:
    """One row to be written by a statement that many rows share; a group's rows of one statement are sent together.

    Between two jobs, inserts go before updates: an update may be of a row that was queued just before it, an insert
    never needs an update that was.

    Attributes:
        statement: made once; rows are told apart by the identity of theirs.
        values: returns the parameters, always the same names for one statement. Called once, on the writer's thread.
    """

    statement: Insert | Update
    values: Callable[[], dict[str, Any]]


@dataclass(slots=True)
class _Item:
    job: Job | RowWrite
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    value: Any = None
    error: Exception | None = None
    since: float = field(default_factory=time.monotonic)


class _Look:
    """Wakes the writer's thread."""


_LOOK = _Look()


class Writer:
    """Runs jobs in the order of their submission, each in a savepoint of the group's transaction if it is not alone.

    Patient jobs have an order of their own. Each has a transaction to itself, when no other job waits: what the service
    tidies up, for hundreds of runs in the same second at times, must not stand before what clients wait for.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Groups that were committed so far.
        self.commits = 0
        # Called in each transaction before anything is written; if it raises, nothing is.
        self.guard: Callable[[Connection], None] | None = None
        # None ends it; a `_Look` says that a patient job has come.
        self._queue: queue.SimpleQueue[_Item | _Look | None] = queue.SimpleQueue()
        self._patient: deque[_Item] = deque()
        # Taking a connection from the pool for each group costs as much as the writing. A file does not hang up; what a
        # server may have done meanwhile the pool finds out.
        self._keeps = engine.dialect.name == "sqlite"
        self._kept: Connection | None = None
        # A daemon: where a process ends without `close`, whatever it has acknowledged is committed already.
        self._thread = threading.Thread(target=self._run, name="tinsmith-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Queue a job; the future is done once the job is committed.

        A job that raises is rolled back alone; a commit that fails fails the whole group.
        """
        return self._put(job)

    def submit_patient(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Queue a job that nobody waits for, and that others may overtake; the future is done once it is committed."""
        item = self._item(job)
        self._patient.append(item)
        self._queue.put(_LOOK)
        return item.future

    def submit_row(self, row: RowWrite) -> asyncio.Future[None]:
        """Queue a row; as with `submit`, it is committed once the future is done, and fails alone."""
        return self._put(row)

    def _put(self, job: Job | RowWrite) -> asyncio.Future[Any]:
        item = self._item(job)
        self._queue.put(item)
        return item.future

    @staticmethod
    def _item(job: Job | RowWrite) -> _Item:
        loop = asyncio.get_running_loop()
        return _Item(job, loop.create_future(), loop)

    def finish(self) -> None:
        """Commit what is queued, and take nothing more."""
        self._queue.put(None)
        self._thread.join()

    def close(self) -> None:
        """Commit what is queued, then close all connections."""
        self.finish()
        self.engine.dispose()

    def _run(self) -> None:
        open_ = True
        # Two patient jobs in a row only where nothing else waits, however long they have.
        others_turn = False
        while open_ or self._patient:
            idle = not open_ or self._queue.empty()
            if self._patient and (idle or (not others_turn and self._is_overdue())):
                items = [self._patient.popleft()]
                others_turn = True
            else:
                items, open_ = self._group()
                others_turn = False
            if items:
                self._commit(items)
                self.commits += 1
                _deliver(items)
        self._let_go()

    def _is_overdue(self) -> bool:
        return time.monotonic() - self._patient[0].since > _PATIENCE_S

    def _group(self) -> tuple[list[_Item], bool]:
        """Return the next group, and whether more may come; waits for its first job, or for a patient one."""
        items: list[_Item] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, _Item):
                items.append(item)
            # What has queued up during the last commit makes the next group; nobody waits for company.
            if len(items) == _GROUP or self._queue.empty():
                return items, True
            item = self._queue.get()
        return items, False

    def _commit(self, items: list[_Item]) -> None:
        try:
            connection = self._connection()
            with connection.begin():
                if self.guard is not None:
                    self.guard(connection)
                if len(items) == 1:
                    # No savepoint: there is nobody else whose work a fault of this one could undo.
                    items[0].value = _work(connection, items[0].job)
                else:
                    _run_group(connection, items)
        except Exception as error:
            # Whatever the reason (disk full, database gone), nothing of the group is stored: every caller must know.
            for item in items:
                item.error = error
            # The next group begins on one that the pool has looked at.
            self._let_go()
        if not self._keeps:
            self._let_go()

    def _connection(self) -> Connection:
        if self._kept is None:
            self._kept = self.engine.connect()
        return self._kept

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def _run_group(connection: Connection, items: list[_Item]) -> None:
    for are_rows, some in groupby(items, lambda item: isinstance(item.job, RowWrite)):
        if are_rows:
            _run_rows(connection, list(some))
        else:
            for item in some:
                _run_one(connection, item)


def _work(connection: Connection, job: Job | RowWrite) -> Any:
    if not isinstance(job, RowWrite):
        return job(connection)
    connection.execute(job.statement, [job.values()])
    return None


def _run_one(connection: Connection, item: _Item) -> None:
    savepoint = connection.begin_nested()
    try:
        assert not isinstance(item.job, RowWrite)
        item.value = item.job(connection)
        savepoint.commit()
    except Exception as error:
        item.error = error
        savepoint.rollback()


def _run_rows(connection: Connection, items: list[_Item]) -> None:
    by_statement: dict[Insert | Update, list[tuple[_Item, dict[str, Any]]]] = {}
    for item in items:
        assert isinstance(item.job, RowWrite)
        try:
            values = item.job.values()
        except Exception as error:
            item.error = error
            continue
        by_statement.setdefault(item.job.statement, []).append((item, values))
    for statement in sorted(by_statement, key=lambda statement: not statement.is_insert):
        pairs = by_statement[statement]
        if _try(connection, statement, [values for _, values in pairs]) is None:
            continue
        # One of them was refused, and with it all were rolled back: each by itself, so that only that one fails.
        for item, values in pairs:
            item.error = _try(connection, statement, [values])


def _try(connection: Connection, statement: Insert | Update, rows: list[dict[str, Any]]) -> Exception | None:
    savepoint = connection.begin_nested()
    try:
        connection.execute(statement, rows)
        savepoint.commit()
    except Exception as error:
        savepoint.rollback()
        return error
    return None


def _deliver(items: list[_Item]) -> None:
    # One wake-up for all of a loop's items: each writes to a pipe.
    loops: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
    for item in items:
        loops.setdefault(item.loop, []).append(item)
    for loop, group in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, group)


def _resolve(items: list[_Item]) -> None:
    for item in items[:_WOKEN_AT_ONCE]:
        if item.future.done():  # its request went away; the job is committed all the same
            continue
        if item.error is not None:
            item.future.set_exception(item.error)
        else:
            item.future.set_result(item.value)
    if rest := items[_WOKEN_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_resolve, rest)
