"""What is done from time to time: expiry of sessions, checkpoints and results, and rest for idle samplers."""

from __future__ import annotations

import asyncio
import logging
import time

from tinsmith.server.checkpoints import Checkpoints
from tinsmith.server.dispatch import Dispatcher
from tinsmith.server.futures import FutureStore
from tinsmith.server.journal import JournalLike
from tinsmith.server.live import LiveState
from tinsmith.server.records import Record
from tinsmith.server.sessions import Sessions
from tinsmith.settings import Settings

log = logging.getLogger("tinsmith.server")

# A sampler that nobody used for so long leaves the engine's memory; its files stay, and the next request loads it.
_SAMPLER_REST_S = 900.0


class Sweeper:
    """Runs the sweeps."""

    def __init__(
        self,
        settings: Settings,
        live: LiveState,
        futures: FutureStore,
        journal: JournalLike,
        sessions: Sessions,
        checkpoints: Checkpoints,
        dispatcher: Dispatcher,
    ) -> None:
        self._settings = settings
        self._live = live
        self._futures = futures
        self._journal = journal
        self._sessions = sessions
        self._checkpoints = checkpoints
        self._dispatcher = dispatcher
        self._interval_s = min(30.0, settings.session_timeout_s / 4, settings.result_retention_s / 4)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Exception:
                log.exception("a sweep failed; the next one is in %g s", self._interval_s)

    async def sweep(self) -> None:
        """Sweep once."""
        await self._sessions.sweep()
        await self._checkpoints.sweep_expired()
        fetched = self._futures.take_fetched()
        if fetched:
            await self._journal.note_fetched(fetched)
        await self.forget()
        self.rest_samplers()

    async def forget(self) -> None:
        """Forget results that were fetched long ago, and those of sessions that ended long ago."""
        over = time.time() - self._settings.result_retention_s
        gone = [record for record in self._futures.records() if self._is_over(record, over)]
        if gone:
            await self._journal.forget(gone)
            for record in gone:
                self._futures.discard(record)

    def _is_over(self, record: Record, over: float) -> bool:
        if not record.settled.is_set() or record.settled_at is None:
            return False
        if record.session_id not in self._live.sessions:
            return record.settled_at < over
        run = self._live.runs.get(record.model_id or "")
        needed = run is not None and (run.creation is record or record.seq_id in run.ops)
        return not needed and record.fetched_at is not None and record.fetched_at < over

    def rest_samplers(self) -> None:
        """Let samplers that nobody uses leave the engine's memory."""
        busy = {record.sampler_id for record in self._futures.pending(lambda r: r.sampler_id is not None)}
        for sampler in self._live.samplers.values():
            idle = time.time() - sampler.used_at > _SAMPLER_REST_S and sampler.id not in busy
            if idle and sampler.ready and sampler.on_disk:
                self._dispatcher.release_sampler(sampler)
