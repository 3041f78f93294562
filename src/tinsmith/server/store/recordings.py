"""Recorded samples: prompt, tokens and logprobs of sampling requests that asked for it, for losses that name them.

A recording belongs to its session and ends with it, or a time after its last use, or when its owner has recorded more
than may be kept. It is written in the transaction of its operation: a client that has been told of a sequence finds it,
whatever died in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from tinsmith.server.state.records import Record
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.tables import RecordingRow, SessionRow
from tinsmith.server.store.journal.journal import Effect
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_sample_response, encode_sample_response
from tinsmith.types.outputs import SampledSequence, SampleResponse

_INT32 = np.dtype("<i4")
_CHUNK = 500  # ids per statement; SQLite allows about a thousand parameters on old versions


@dataclass(frozen=True, slots=True)
class Recording:
    """A request that was sampled.

    Attributes:
        prompt: int32 [N].
        sequences: what was drawn, in the order of the request's sequence ids.
    """

    prompt: npt.NDArray[np.int32]
    sequences: list[SampledSequence]


class Recordings:
    """The recordings in a database.

    Args:
        instance: whose recordings are forgotten in time; other services that share the database have their own time.
        now: the service's time, seconds.
    """

    def __init__(self, db: Database, settings: Settings, instance: str, now: Callable[[], float]) -> None:
        self._db = db
        self._ours = sessions_of(instance)
        self._now = now
        self._retention_s = settings.recording_retention_s
        self._limit = settings.max_recorded_mb * 2**20

    # -- while a sample is accepted and settled -----------------------------------------------------------------------

    def begin(self, record: Record, prompt: list[int]) -> Effect:
        """Return what stores the prompt of an accepted request."""
        row = {
            "request_id": record.request_id,
            "session_id": record.session_id,
            "owner": record.owner,
            "used_at": self._now(),
            "size_bytes": _INT32.itemsize * len(prompt),
            "prompt": np.asarray(prompt, _INT32).tobytes(),
            "sequences": None,
        }
        return lambda connection: connection.execute(insert(RecordingRow), row)

    def complete(self, record: Record, result: bytes) -> Effect:
        """Return what stores the sequences of a request that is done; nothing where its session has ended."""
        now = self._now()

        def effect(connection: Connection) -> None:
            # On the writer's thread: a result may be large, and holds more than is recorded.
            drawn = [SampledSequence(s.stop_reason, s.tokens, s.logprobs) for s in _decode(result)]
            sequences = encode_sample_response(SampleResponse(drawn))
            size = RecordingRow.size_bytes + len(sequences)
            values = {"sequences": sequences, "size_bytes": size, "used_at": now}
            connection.execute(_of([record.request_id], update(RecordingRow)).values(values))

        return effect

    def drop(self, record: Record) -> Effect:
        """Return what forgets a request that failed."""
        return lambda connection: connection.execute(_of([record.request_id], delete(RecordingRow)))

    # -- while a loss is prepared -------------------------------------------------------------------------------------

    async def find(self, owner: str, request_ids: Iterable[str]) -> dict[str, Recording]:
        """Return those of an owner's requests that are recorded, by request id."""
        wanted = sorted(set(request_ids))
        columns = (RecordingRow.request_id, RecordingRow.prompt, RecordingRow.sequences)

        def job(connection: Connection) -> dict[str, Recording]:
            found: dict[str, Recording] = {}
            for some in _chunks(wanted):
                query = _of(some, select(*columns)).where(
                    RecordingRow.owner == owner, RecordingRow.sequences.is_not(None)
                )
                for row in connection.execute(query):
                    found[row.request_id] = Recording(np.frombuffer(row.prompt, _INT32), _decode(row.sequences))
            return found

        return await self._db.read_async(job)

    async def size_of(self, owner: str) -> int:
        """Return the bytes that an owner's recordings take."""
        query = select(func.coalesce(func.sum(RecordingRow.size_bytes), 0)).where(RecordingRow.owner == owner)
        return int(await self._db.read_async(lambda connection: connection.execute(query).scalar_one()))

    def touch(self, request_ids: Iterable[str]) -> Effect:
        """Return what notes that requests were used now."""
        used, now = sorted(set(request_ids)), self._now()

        def effect(connection: Connection) -> None:
            for some in _chunks(used):
                connection.execute(_of(some, update(RecordingRow)).values(used_at=now))

        return effect

    # -- the end ------------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Forget what was not used for long, and the longest unused of owners who have recorded too much."""
        old = RecordingRow.used_at < self._now() - self._retention_s
        await self._db.write(lambda c: c.execute(delete(RecordingRow).where(old, self._ours)))
        size = func.sum(RecordingRow.size_bytes)
        crowded = select(RecordingRow.owner).group_by(RecordingRow.owner).having(size > self._limit)
        for owner in await self._db.read_async(lambda c: list(c.execute(crowded).scalars())):
            await self._db.write(lambda connection, owner=owner: self._make_room(connection, owner))

    def _make_room(self, connection: Connection, owner: str) -> None:
        query = select(RecordingRow.request_id, RecordingRow.size_bytes).where(RecordingRow.owner == owner)
        kept, gone = 0, list[str]()
        for row in connection.execute(query.order_by(RecordingRow.used_at.desc(), RecordingRow.request_id)):
            kept += row.size_bytes
            if kept > self._limit:
                gone.append(row.request_id)
        for some in _chunks(gone):
            connection.execute(_of(some, delete(RecordingRow)))


def sessions_of(instance: str) -> ColumnElement[bool]:
    """Return the condition that a recording belongs to a session of a service."""
    return RecordingRow.session_id.in_(select(SessionRow.id).where(SessionRow.instance == instance))


def forget_sessions(connection: Connection, session_ids: Iterable[str]) -> None:
    """Forget the recordings of sessions that have ended."""
    for session_id in session_ids:
        connection.execute(delete(RecordingRow).where(RecordingRow.session_id == session_id))


def _decode(result: bytes) -> list[SampledSequence]:
    return decode_sample_response(result).sequences


def _of(request_ids: list[str], statement: Any) -> Any:
    return statement.where(RecordingRow.request_id.in_(request_ids))


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
