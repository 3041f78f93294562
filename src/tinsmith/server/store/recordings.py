"""Recorded samples: prompt, tokens and logprobs of sampling requests that asked for it, for losses that name them.

A recording belongs to its session and ends with it, or a time after its last use, or when its owner has recorded more
than may be kept. It is written in the transaction of its operation: a client that has been told of a sequence finds it,
whatever died in between. Both halves carry digests, which are compared when a loss names the recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, delete, func, insert, or_, select, update

from tinsmith.server.state.records import Record
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.tables import RecordingRow, SessionRow
from tinsmith.server.store.journal.journal import Effect
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_sample_response, encode_sample_response
from tinsmith.types.digests import digest
from tinsmith.types.errors import Damaged
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
        tokens = np.asarray(prompt, _INT32).tobytes()
        row = {
            "request_id": record.request_id,
            "session_id": record.session_id,
            "owner": record.owner,
            "used_at": self._now(),
            "size_bytes": _INT32.itemsize * len(prompt),
            "prompt": tokens,
            "prompt_digest": digest(_about(record.request_id, record.owner), tokens),
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
            found = digest(_about(record.request_id, record.owner), sequences)
            values = {"sequences": sequences, "sequences_digest": found, "size_bytes": size, "used_at": now}
            connection.execute(_of([record.request_id], update(RecordingRow)).values(values))

        return effect

    def drop(self, record: Record) -> Effect:
        """Return what forgets a request that failed."""
        return lambda connection: connection.execute(_of([record.request_id], delete(RecordingRow)))

    # -- while a loss is prepared -------------------------------------------------------------------------------------

    async def find(self, owner: str, request_ids: Iterable[str]) -> dict[str, Recording]:
        """Return those of an owner's requests that are recorded, by request id.

        Raises:
            Damaged: one of them is not what was written.
        """
        wanted = sorted(set(request_ids))
        drawn = or_(RecordingRow.sequences.is_not(None), RecordingRow.sequences_digest.is_not(None))

        def job(connection: Connection) -> dict[str, Recording]:
            found: dict[str, Recording] = {}
            for some in _chunks(wanted):
                query = _of(some, select(*_READ)).where(RecordingRow.owner == owner, drawn)
                for row in connection.execute(query):
                    about = _about(row.request_id, owner)
                    prompt = _sound(row.request_id, "prompt", about, (row.prompt, row.prompt_digest))
                    sequences = _sound(row.request_id, "sequences", about, (row.sequences, row.sequences_digest))
                    found[row.request_id] = Recording(np.frombuffer(prompt, _INT32), _decode(sequences))
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


# As bytes, whatever a damaged row holds: one that the driver could not decode would fail as if the database were down.
_READ = (
    RecordingRow.request_id,
    *(
        cast(column, LargeBinary).label(column.key)
        for column in (
            RecordingRow.prompt,
            RecordingRow.prompt_digest,
            RecordingRow.sequences,
            RecordingRow.sequences_digest,
        )
    ),
)


def _about(request_id: str, owner: str) -> bytes:
    """Return what a digest covers beside the bytes: two recordings may not change places."""
    return json.dumps([request_id, owner]).encode()


def _sound(request_id: str, half: str, about: bytes, stored: tuple[bytes | None, bytes | None]) -> bytes:
    """Return one half of a recording; one that is older than the digests is taken as it is."""
    data, wanted = stored
    if data is None or (wanted is not None and digest(about, data).encode() != wanted):
        raise Damaged(f"recordings: the {half} of sample {request_id} is damaged: it is not what was written")
    return data


def _decode(result: bytes) -> list[SampledSequence]:
    return decode_sample_response(result).sequences


def _of(request_ids: list[str], statement: Any) -> Any:
    return statement.where(RecordingRow.request_id.in_(request_ids))


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
