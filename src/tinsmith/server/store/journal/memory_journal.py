"""The journal of a service whose clients die with it: only what outlives them (runs, checkpoints) is written."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.server.state.records import Record
from tinsmith.server.store.db import Database
from tinsmith.server.store.journal.journal import Effect


class MemoryJournal:
    """Operations live and die with the process."""

    durable = False

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        await self._run(effects)

    async def settle(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        await self._run(effects)
        record.body = None

    async def _run(self, effects: Sequence[Effect]) -> None:
        if effects:
            await self._db.write(lambda connection: [effect(connection) for effect in effects])

    async def body(self, record: Record, *, verify: bool = False) -> tuple[bytes | None, str | None]:
        return record.body, None

    async def result(self, record: Record) -> bytes:
        if record.result is None:
            raise ValueError(f"operation {record.request_id} has no result")
        return record.result

    async def cut(self, records: Sequence[Record], effects: Sequence[Effect] = ()) -> None:
        await self._run(effects)

    async def forget(self, records: Sequence[Record]) -> None:
        return

    async def note_fetched(self, records: Sequence[Record]) -> None:
        return

    def load(self) -> list[Record]:
        return []

    async def sweep_blobs(self, records: Sequence[Record]) -> int:
        return 0
