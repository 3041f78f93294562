"""What the engine host says, and what follows from it."""

from __future__ import annotations

import inspect
import logging
import time

from sqlalchemy import bindparam, update

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.outcomes import After, Outcomes
from tinsmith.server.engine_link.recovery import Recovery
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.state.live import SamplingSession
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import SamplerRow
from tinsmith.types.engine_messages.host_events import Event, Failure, Flushed, Lost, Ready, Result, Stats
from tinsmith.types.engine_messages.operations import OpKind, TakeSnapshot
from tinsmith.types.facts.base_model_info import BaseModelInfo

log = logging.getLogger("tinsmith.server")

# Made once, of the table, as the journal's are.
_SAMPLERS = SamplerRow.metadata.tables[SamplerRow.__tablename__]
_ON_DISK = update(_SAMPLERS).where(_SAMPLERS.c.id == bindparam("of"))


class Events:
    """Takes the events of an engine host.

    Attributes:
        lives: how often a host came up.
    """

    def __init__(
        self,
        core: Core,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        recovery: Recovery,
        recovery_points: RecoveryPoints,
    ) -> None:
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._recovery = recovery
        self._recovery_points = recovery_points
        self._live = core.live
        self._db = core.db
        self._futures = core.futures
        self._catalog = core.catalog
        self._data_folder = core.data_folder
        self._tasks = core.tasks
        self._metrics = core.metrics
        self.lives = 0

    def take(self, event: Event) -> None:
        """Handle an event; called on the event loop."""
        match event:
            case Result() | Failure():
                self._on_outcome(event)
            case Flushed(request_id):
                self._tasks.start(self._on_flushed(request_id))
            case Ready(models):
                # The life begins here and not in the task: a loss may come before that runs.
                self._tasks.start(self._on_ready(models, self._dispatcher.born()))
            case Lost():
                self._metrics.losses.labels(event.cause).inc()
                self._on_lost(event)
            case Stats(values, running):
                self._metrics.engine(values)
                self._futures.note_running(running)

    def _on_outcome(self, event: Result | Failure) -> None:
        # Three kinds of operations have outcomes: the service's own, replays, and those that a client waits for.
        internal = self._dispatcher.take_internal(event.request_id)
        if internal is not None:
            self._recovery.cleared(internal)
            follow = internal.done(event) if isinstance(event, Result) else internal.failed(event)
            if inspect.iscoroutine(follow):
                self._tasks.start(follow)
            return
        replayed = self._dispatcher.take_replayed(event.request_id)
        if replayed is not None:
            self._cleared(replayed, event)
            self._tasks.start(self._on_replayed(replayed, event))
            return
        record = self._futures.find(event.request_id)
        # It was cancelled, or its session ended, while the engine worked on it.
        if record is None or record.state is not State.PENDING:
            return
        self._cleared(record, event)
        self._dispatcher.progressed()
        if isinstance(event, Result):
            self._outcomes.result(record, event, *self._after(record))
        else:
            self._outcomes.failure(record, event)
        self._metrics.operations.labels(record.kind.value, record.state.value).inc()
        # By the wall clock, which may be moved; the service's own time does not say when this was accepted.
        self._metrics.latency.labels(record.kind.value).observe(max(0.0, time.time() - record.created_at))

    def _cleared(self, record: Record, event: Result | Failure) -> None:
        # What a snapshot took is still to be written.
        if record.kind is not OpKind.SNAPSHOT or isinstance(event, Failure):
            self._recovery.cleared(record)

    def _after(self, record: Record) -> list[After]:
        sampler = self._made_by(record)
        # Ready before its client is told, so that the first sample finds it in memory.
        return [lambda: self._dispatcher.sampler_ready(sampler)] if sampler is not None else []

    def _made_by(self, record: Record) -> SamplingSession | None:
        """Return the sampler that a snapshot makes, unless it was let go of meanwhile."""
        return self._live.samplers.get(record.sampler_id or "") if record.kind is OpKind.SNAPSHOT else None

    async def _on_replayed(self, record: Record, event: Result | Failure) -> None:
        if isinstance(event, Failure):
            await self._recovery.replay_failed(record, event)
        elif (sampler := self._made_by(record)) is not None:
            await self._dispatcher.sampler_ready(sampler)

    async def _on_flushed(self, request_id: str) -> None:
        record = self._futures.find(request_id)
        if record is None or not isinstance(record.work, TakeSnapshot):
            return
        sampler = self._live.samplers.get(record.sampler_id or "")
        if sampler is None:  # let go of while it was being written
            await self._data_folder.remove(record.work.folder)
            return
        self._recovery.cleared(record)
        # First the row, then memory, by which the journal is cut: what makes the sampler again must stay while its row
        # does not know of its files. A service that dies in between replays the snapshot once more: no harm.
        written = {"of": sampler.id, "on_disk": True}
        await self._db.write_until_stored(lambda connection: connection.execute(_ON_DISK, written))
        sampler.on_disk = True
        self._dispatcher.make_room(sampler)
        run = self._live.runs.get(sampler.model_id or "")
        if run is not None:
            await self._recovery_points.prune(run)

    async def _on_ready(self, models: list[BaseModelInfo], life: int) -> None:
        self.lives += 1
        self._catalog.up(models)
        # Before recovery: what was queued to be written is written by then, recovery points too.
        await self._catalog.store(models)
        if await self._recovery.rebuild(life):
            log.info("the engine is up with %s", ", ".join(model.name for model in models))

    def _on_lost(self, lost: Lost) -> None:
        log.error("the engine is lost: %s", lost.reason)
        self._catalog.down(lost.reason)
        # Recovery first: it asks what was handed over in the life that the dispatcher now ends.
        self._recovery.lost(lost)
        self._futures.note_running([])
        self._dispatcher.lost()
