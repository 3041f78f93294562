"""What is done from time to time: expiry of sessions, checkpoints, results, recordings, and rest for idle samplers."""

from __future__ import annotations

import asyncio
import logging

from tinsmith.clocks import JUMP_S, span
from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.faults import NotOurs
from tinsmith.server.handlers.sessions import SessionsHandler
from tinsmith.server.state.records import Record
from tinsmith.server.store.core import Core

log = logging.getLogger("tinsmith.server")

# How long a fetched result is kept where there is no journal, seconds.
_MEMORY_RETENTION_S = 60.0
# How long a fetched refusal is kept: until a lost answer has been asked for again. It was made in no time, and is made
# again where a request is repeated after all.
_REFUSAL_RETENTION_S = 60.0


class Sweeper:
    """Runs the sweeps."""

    def __init__(self, core: Core, dispatcher: Dispatcher, sessions: SessionsHandler) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._clock = core.clock
        self._live = core.live
        self._futures = core.futures
        self._journal = core.journal
        self._checkpoints = core.checkpoints
        self._recordings = core.recordings
        self._disk = core.disk
        self._forgetting = asyncio.Lock()
        self._retention_s = core.settings.result_retention_s
        if not core.journal.durable:
            # Within one process no answer gets lost on the way, and results that are kept fill its memory.
            self._retention_s = min(self._retention_s, _MEMORY_RETENTION_S)
        # Nothing outlives its time by more than a quarter.
        settings = core.settings
        times = (settings.session_timeout_s, settings.recording_retention_s, self._retention_s)
        self._interval_s = min(30.0, *(seconds / 4 for seconds in times))

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except NotOurs:
                return
            except Exception:
                # A full disk, say; the sweeps must not end with it.
                log.exception("a sweep failed; the next one is in %g s", self._interval_s)

    async def sweep(self) -> None:
        """Sweep once."""
        # First: on a full disk what follows may fail.
        await self._disk.look()
        await self._look_at_wall_clock()
        await self._sessions.sweep()
        await self._checkpoints.sweep_expired()
        await self._recordings.sweep()
        fetched = self._futures.take_fetched()
        if fetched:
            await self._journal.note_fetched(fetched)
        await self.forget()
        self._dispatcher.rest()

    async def _look_at_wall_clock(self) -> None:
        """Say that the wall clock was moved, and let no checkpoint lose lifetime by it."""
        wall = self._clock.wall
        jump = wall.jump()
        if abs(jump) < JUMP_S:
            wall.go_on()
            return
        how = f"the wall clock was moved {'on' if jump > 0 else 'back'} by {span(abs(jump))}"
        if not self._journal.durable:
            # Other services share the folder, and each of them would move the ends.
            log.warning("%s; this service goes on with the time that it had", how)
            wall.go_on()
            return
        moved = await self._checkpoints.shift(wall.believe())
        log.warning("%s; the ends of lifetimes (%d checkpoints) were moved with it", how, moved)

    async def forget(self) -> None:
        """Forget results that were fetched long ago, and those of sessions that ended long ago."""
        # Whoever comes second waits, and finds forgotten what the first one took up.
        async with self._forgetting:
            await self._forget()

    async def _forget(self) -> None:
        now = self._clock.now()
        results, refusals = now - self._retention_s, now - min(self._retention_s, _REFUSAL_RETENTION_S)
        due = self._futures.due(results, refusals)
        gone = [record for record in due if self._is_over(record, refusals if record.at_door else results)]
        if gone:
            try:
                await self._journal.forget(gone)
            except BaseException:
                self._futures.may_expire(gone)  # the next sweep tries again
                raise
            for record in gone:
                self._futures.discard(record)
                run = self._live.runs.get(record.model_id or "")
                if run is not None and run.ops.get(record.seq_id or 0) is record:
                    del run.ops[record.seq_id or 0]

    def _is_over(self, record: Record, over: float) -> bool:
        if not record.settled.is_set() or record.settled_at is None:
            return False
        if record.session_id not in self._live.sessions:
            return record.settled_at < over
        run = self._live.runs.get(record.model_id or "")
        # What a run would be rebuilt from stays, however old; recovery points cut it.
        replayed = self._journal.durable and run is not None and run.ops.get(record.seq_id or 0) is record
        needed = replayed or (run is not None and run.creation is record)
        return not needed and record.fetched_at is not None and record.fetched_at < over
