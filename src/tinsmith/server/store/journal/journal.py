"""The journal of operations: what is acknowledged is stored before, bulky parts as blobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, delete, insert, select, update

from tinsmith.server.state.records import Record
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.tables import OperationRow
from tinsmith.server.store.journal.blobs import BlobStore
from tinsmith.server.store.journal.operation_rows import from_row, to_row

Effect = Callable[[Connection], Any]

# Larger bodies and results are files: SQLite is quicker than files below about this size.
INLINE_BYTES = 64 * 1024
_CHUNK = 500  # ids per statement; SQLite allows about a thousand parameters on old versions


class TornBody(Exception):
    """A journalled body is gone or is not what was written."""


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

        Raises:
            TornBody: it is gone, or `verify` and it has changed.
        """
        ...

    async def result(self, record: Record) -> bytes:
        """Return the result of an operation that is done."""
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

    async def add(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        body = record.body
        # The blob first, then the row: a row never points to nothing, and a blob without a row is swept.
        if body is not None:
            record.body_digest = digest(body)
            if len(body) > INLINE_BYTES:
                key = f"{record.request_id}.body"
                await self._blobs.put(key, body)
                record.body_blob = key
        inline = body if record.body_blob is None else None
        row = to_row(record, self._instance) | {"body": inline, "result": record.result}

        def job(connection: Connection) -> None:
            for effect in effects:
                effect(connection)
            connection.execute(insert(OperationRow), row)

        await self._db.write(job)

    async def settle(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        result = record.result
        if result is not None and len(result) > INLINE_BYTES:
            key = f"{record.request_id}.result"
            await self._blobs.put(key, result)
            record.result_blob = key
        values = {
            "state": record.state.value,
            "result": result if record.result_blob is None else None,
            "result_blob": record.result_blob,
            "media_type": record.media_type,
            "error": record.error,
            "category": record.category.value if record.category else None,
            "settled_at": record.settled_at,
        }

        def job(connection: Connection) -> None:
            for effect in effects:
                effect(connection)
            where = OperationRow.request_id == record.request_id
            connection.execute(update(OperationRow).where(where).values(values))

        await self._db.write(job)
        record.body = None

    async def body(self, record: Record, *, verify: bool = False) -> tuple[bytes | None, str | None]:
        if record.body_digest is None:
            return None, None
        path = self._blobs.local_path(record.body_blob) if record.body_blob else None
        # The engine reads the file itself: a large body passes through this process only once.
        if path is not None and not verify:
            return None, path
        body = record.body if record.body is not None else await self._read_body(record)
        if verify and digest(body) != record.body_digest:
            raise TornBody(f"the journalled body of operation {record.request_id} is damaged")
        return (None, path) if path is not None else (body, None)

    async def _read_body(self, record: Record) -> bytes:
        if record.body_blob:
            try:
                return await self._blobs.get(record.body_blob)
            except FileNotFoundError as error:
                raise TornBody(f"the journalled body of operation {record.request_id} is gone") from error
        body = await self._column(record, OperationRow.body)
        if body is None:
            raise TornBody(f"the journalled body of operation {record.request_id} is gone")
        return body

    async def result(self, record: Record) -> bytes:
        if record.result is not None:
            # Kept in memory for the first poll only; whoever asks again waits for the disk.
            result, record.result = record.result, None
            return result
        if record.result_blob:
            return await self._blobs.get(record.result_blob)
        result = await self._column(record, OperationRow.result)
        if result is None:
            raise ValueError(f"operation {record.request_id} has no result")
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

        await self._db.write(job)
        await self._blobs.delete(blobs)
        for record in records:
            # The digest stays, so that `_read_body` says that it is gone and not that there was none.
            record.body_blob = None

    async def forget(self, records: Sequence[Record]) -> None:
        ids = [record.request_id for record in records]

        def job(connection: Connection) -> None:
            for some in _chunks(ids):
                connection.execute(delete(OperationRow).where(OperationRow.request_id.in_(some)))

        await self._db.write(job)
        blobs = [blob for record in records for blob in (record.body_blob, record.result_blob) if blob]
        await self._blobs.delete(blobs)

    async def note_fetched(self, records: Sequence[Record]) -> None:
        times = [(record.request_id, record.fetched_at) for record in records]

        def job(connection: Connection) -> None:
            for request_id, fetched_at in times:
                where = OperationRow.request_id == request_id
                connection.execute(update(OperationRow).where(where).values(fetched_at=fetched_at))

        await self._db.write(job)

    def load(self) -> list[Record]:
        """Read all operations of this instance in the order of their arrival, without bodies and results.

        Raises:
            StartupError: one of them cannot be read.
        """
        skipped = (OperationRow.body, OperationRow.result)
        # Of thousands of operations most are never asked for again.
        columns = [c for c in OperationRow.__table__.columns if c.name not in {s.key for s in skipped}]
        query = select(*columns).where(OperationRow.instance == self._instance).order_by(OperationRow.ordinal)
        return self._db.read(lambda connection: [from_row(row) for row in connection.execute(query)])

    async def sweep_blobs(self, records: Sequence[Record]) -> int:
        known = {blob for record in records for blob in (record.body_blob, record.result_blob) if blob}
        lost = [key for key in self._blobs.keys() if key not in known]  # noqa: SIM118 - a method, not a mapping
        await self._blobs.delete(lost)
        return len(lost)


def digest(data: bytes) -> str:
    """Return the digest of a body or payload."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
