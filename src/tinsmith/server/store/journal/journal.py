"""The journal of operations: what is acknowledged is stored before, bulky parts as blobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Text, bindparam, cast, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.state.records import Record, State
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.tables import OperationRow
from tinsmith.server.store.db.writer import RowWrite
from tinsmith.server.store.journal.blobs import BlobStore
from tinsmith.server.store.journal.operation_rows import about_outcome, from_row, sealed, to_row
from tinsmith.types.digests import digest
from tinsmith.types.errors import Damaged

log = logging.getLogger("tinsmith.server")

T = TypeVar("T")

Effect = Callable[[Connection], Any]

# Larger bodies and results are files: SQLite is quicker than files below about this size.
INLINE_BYTES = 64 * 1024
# Ids of one statement, rows of one job: SQLite takes a few milliseconds for so many.
_CHUNK = 200
# What is read at the start: of thousands of operations most are never asked for again. `args` as text, because parsing
# it here would end the whole answer at the first row that is no JSON.
_COLUMNS = [
    cast(column, Text).label("args") if column.key == "args" else column
    for column in OperationRow.__table__.columns
    if column.key not in ("body", "result")
]

# Made once, of the table and not of the class: what SQLAlchemy does to make a statement for every operation takes
# longer than the writing. The columns are those that the parameters name.
_TABLE = OperationRow.metadata.tables[OperationRow.__tablename__]
_ADD = insert(_TABLE)
_CHANGE = update(_TABLE).where(_TABLE.c.request_id == bindparam("of"))


class JournalLike(Protocol):
    """What this journal and `MemoryJournal` do. Effects are written in the same transaction as the operation itself."""

    durable: bool

    async def add(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        """Store a newly accepted operation."""
        ...

    async def settle(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        """Store an operation's outcome."""
        ...

    async def body(self, record: Record, *, verify: bool = False) -> tuple[bytes | None, str | None]:
        """Return an operation's body, or the file that holds it; both None where it has none.

        A body that comes as bytes is what was written; a file is looked at with `verify` only, else by who reads it.

        Raises:
            Damaged: it is gone or is not what was written.
        """
        ...

    async def result(self, record: Record) -> bytes:
        """Return the result of an operation that is done.

        Raises:
            Damaged: it is gone or is not what was written.
        """
        ...

    async def cut(self, records: Sequence[Record], effects: Sequence[Effect] = ()) -> None:
        """Drop bodies that no replay needs."""
        ...

    async def forget(self, records: Sequence[Record]) -> None:
        """Drop operations altogether."""
        ...

    async def note_fetched(self, records: Sequence[Record]) -> None:
        """Store when results were first fetched."""
        ...

    def load(self) -> list[Record]:
        """Read what an earlier life stored, in the order of its arrival, without bodies and results."""
        ...

    async def sweep_blobs(self, records: Sequence[Record]) -> int:
        """Delete blobs that no operation refers to (their operation was never committed); return how many."""
        ...


class Journal:
    """Operations in the database, those of one instance; bulky parts as blobs."""

    durable = True

    def __init__(self, db: Database, blobs: BlobStore, instance: str) -> None:
        self._db = db
        self._blobs = blobs
        self._instance = instance
        self._damaged = False

    async def add(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        body = record.body
        # The blob first, then the row: a row never points to nothing, and a blob without a row is swept.
        if body is not None and len(body) > INLINE_BYTES:
            key = f"{record.request_id}.body"
            record.body_digest = await self._blobs.put(key, body)
            record.body_blob = key
        inline = body if record.body_blob is None else None
        about = about_outcome(record) if record.state is not State.PENDING else None
        row = to_row(record, self._instance) | {"body": inline}

        # Digests on the writer's thread, which has time while the disk has none.
        def values() -> dict[str, Any]:
            if inline is not None:
                row["body_digest"] = record.body_digest = digest(inline)
            if about is not None:
                row["outcome_digest"] = digest(about)
            return sealed(row)

        await self._write(RowWrite(_ADD, values), effects)

    async def _write(self, row: RowWrite, effects: Sequence[Effect]) -> None:
        """Write a row, and what belongs to it in the same transaction."""
        if not effects:
            await self._db.write_row(row)
            return

        def job(connection: Connection) -> None:
            for effect in effects:
                effect(connection)
            connection.execute(row.statement, row.values())

        await self._db.write(job)

    async def settle(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        result, about = record.result, about_outcome(record)
        if result is not None and len(result) > INLINE_BYTES:
            key = f"{record.request_id}.result"
            record.outcome_digest = await self._blobs.put(key, result, about)
            record.result_blob = key
        inline = result if record.result_blob is None else None
        row = {
            "of": record.request_id,
            "state": record.state.value,
            "result": inline,
            "result_blob": record.result_blob,
            "media_type": record.media_type,
            "error": record.error,
            "category": record.category.value if record.category else None,
            "settled_at": record.settled_at,
        }

        def values() -> dict[str, Any]:
            if record.result_blob is None:
                record.outcome_digest = digest(about, inline or b"")
            return row | {"outcome_digest": record.outcome_digest}

        await self._write(RowWrite(_CHANGE, values), effects)
        record.body = None

    async def body(self, record: Record, *, verify: bool = False) -> tuple[bytes | None, str | None]:
        if record.body is None and record.body_digest is None:
            return None, None
        path = self._blobs.local_path(record.body_blob) if record.body_blob else None
        # The engine reads the file itself: a large body passes through this process only once.
        if path is not None and not verify:
            return None, path
        body = record.body if record.body is not None else await self._read_body(record)
        return (None, path) if path is not None else (body, None)

    async def _read_body(self, record: Record) -> bytes:
        if record.body_blob:
            return await self._blobs.get(record.body_blob, record.body_digest)
        body = await self._column(record, OperationRow.body)
        if body is None or digest(body) != record.body_digest:
            what = "gone" if body is None else "damaged"
            raise Damaged(f"the journalled body of operation {record.request_id} is {what}")
        return body

    async def result(self, record: Record) -> bytes:
        if record.result is not None:
            # Kept in memory for the first poll only; whoever asks again waits for the disk.
            result, record.result = record.result, None
            return result
        try:
            return await patiently(lambda: self._read_result(record))
        except Damaged as error:
            log.error("the result of operation %s is lost: %s", record.request_id, error)
            raise Damaged(f"the result of this operation is lost: {error}") from error

    async def _read_result(self, record: Record) -> bytes:
        about = about_outcome(record)
        if record.result_blob:
            return await self._blobs.get(record.result_blob, record.outcome_digest, about)
        result = await self._column(record, OperationRow.result)
        if result is None or record.outcome_digest not in (None, digest(about, result)):
            raise Damaged(f"its row in the journal is {'empty' if result is None else 'damaged'}")
        return result

    async def _column(self, record: Record, column: Any) -> bytes | None:
        query = select(column).where(OperationRow.request_id == record.request_id)
        return await self._db.read_async(lambda connection: connection.execute(query).scalar())

    async def cut(self, records: Sequence[Record], effects: Sequence[Effect] = ()) -> None:
        ids = [record.request_id for record in records if record.body_digest]
        blobs = [record.body_blob for record in records if record.body_blob]

        def job(connection: Connection) -> None:
            for effect in effects:
                effect(connection)
            for some in _chunks(ids):
                where = OperationRow.request_id.in_(some)
                connection.execute(update(OperationRow).where(where).values(body=None, body_blob=None))

        await self._db.tidy(job)
        await self._blobs.delete(blobs)
        for record in records:
            # The digest stays, so that `_read_body` says that it is gone and not that there was none.
            record.body_blob = None

    async def forget(self, records: Sequence[Record]) -> None:
        for some in _chunks([record.request_id for record in records]):
            gone = delete(OperationRow).where(OperationRow.request_id.in_(some))
            await self._db.tidy(lambda connection, gone=gone: connection.execute(gone))
        blobs = [blob for record in records for blob in (record.body_blob, record.result_blob) if blob]
        await self._blobs.delete(blobs)

    async def note_fetched(self, records: Sequence[Record]) -> None:
        for some in _chunks([{"of": record.request_id, "fetched_at": record.fetched_at} for record in records]):
            await self._db.tidy(lambda connection, some=some: connection.execute(_CHANGE, some))

    def load(self) -> list[Record]:
        """Read all operations of this instance in the order of their arrival, without bodies and results.

        What cannot be read of one is named in its `damage` and in the log.

        Raises:
            SQLAlchemyError: not even their list can be read.
        """
        records = [from_row(row) for row in self._db.read(self._rows)]
        for record in records:
            if record.damage is not None:
                log.error("%s", record.damage)
                self._damaged = True
        return records

    def _rows(self, connection: Connection) -> list[dict[str, Any]]:
        ours = OperationRow.instance == self._instance
        try:
            found = connection.execute(select(*_COLUMNS).where(ours).order_by(OperationRow.ordinal))
            return [dict(row) for row in found.mappings()]
        # A value that cannot be decoded spoils the answer for all the others.
        except (SQLAlchemyError, ValueError, TypeError) as error:
            log.error("journal: some rows cannot be read, so each is read by itself: %s", error)
        ordinals = connection.execute(select(OperationRow.ordinal).where(ours).order_by(OperationRow.ordinal))
        return [_salvage(connection, OperationRow.ordinal == ordinal) for ordinal in list(ordinals.scalars())]

    async def sweep_blobs(self, records: Sequence[Record]) -> int:
        if self._damaged:
            return 0  # a damaged row may have been the one that named a blob
        known = {blob for record in records for blob in (record.body_blob, record.result_blob) if blob}
        lost = [key for key in self._blobs.keys() if key not in known]  # noqa: SIM118 - a method, not a mapping
        await self._blobs.delete(lost)
        return len(lost)


def _salvage(connection: Connection, where: Any) -> dict[str, Any]:
    """Return what can be read of a row, column by column; None stands for what cannot."""
    row: dict[str, Any] = {}
    for column in _COLUMNS:
        try:
            row[column.key] = connection.execute(select(column).where(where)).scalar()
        except (SQLAlchemyError, ValueError, TypeError):
            row[column.key] = None
    return row


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do something that reads from the disk or the database; what keeps failing is taken for lost.

    Raises:
        Damaged: it failed every time.
    """
    # Long enough for a database that is restarted, short enough for the runs behind this one to wait.
    for delay in (0.1, 0.5, 2.0, 5.0):
        try:
            return await work()
        except (SQLAlchemyError, OSError) as error:
            log.warning("the journal could not be read (%s); next try in %g s", error, delay)
            await asyncio.sleep(delay)
    try:
        return await work()
    except (SQLAlchemyError, OSError) as error:
        raise Damaged(f"the journal could not be read: {error}") from error


def _chunks(items: list[T]) -> list[list[T]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
