"""The journal of a service whose clients die with it: what outlives them is written, and what was trained.

Runs and checkpoints are rows, as everywhere. Operations of training runs go to the `RunLog`, from which the next start
saves what a killed script had not; samples and results are nobody's any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.server.state.records import Record
from tinsmith.server.store.db import Database
from tinsmith.server.store.journal.journal import Effect
from tinsmith.server.store.journal.run_log import RunLog


class MemoryJournal:
    """Operations and their futures live and die with the process."""

    durable = False

    def __init__(self, db: Database, run_log: RunLog) -> None:
        self._db = db
        self._run_log = run_log

    async def add(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        await self._run(effects)
        await self._run_log.add(record)

    async def settle(self, record: Record, effects: Sequence[Effect] = ()) -> None:
        # Before anything is waited for, so that outcomes are noted in their order; but a save is not one before its row
        # is there.
        if effects:
            await self._run(effects)
        self._run_log.settle(record)
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
        await self._run_log.cut(records)

    async def forget(self, records: Sequence[Record]) -> None:
        return

    async def note_fetched(self, records: Sequence[Record]) -> None:
        return

    def load(self) -> list[Record]:
        return []

    async def sweep_blobs(self, records: Sequence[Record]) -> int:
        return 0
