"""What the engine host says, and what follows from it."""

from __future__ import annotations

import inspect
import logging

from sqlalchemy import update

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.engine_link.recovery import Recovery
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.engine_link.resting import Resting
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.live import LiveState
from tinsmith.server.state.prometheus import Metrics
from tinsmith.server.state.records import Record, State
from tinsmith.server.state.tasks import Tasks
from tinsmith.server.store.catalog import Catalog
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.models import SamplerRow
from tinsmith.server.store.folders import DataFolder
from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.host_events import Event, Failure, Flushed, Lost, Ready, Result, Stats
from tinsmith.types.operations import OpKind, Snapshot

log = logging.getLogger("tinsmith.server")


class Events:
    """Takes the events of an engine host.

    Attributes:
        lives: how often a host came up.
    """

    def __init__(
        self,
        live: LiveState,
        db: Database,
        futures: FutureStore,
        catalog: Catalog,
        dispatcher: Dispatcher,
        completion: Outcomes,
        recovery: Recovery,
        points: RecoveryPoints,
        resting: Resting,
        folders: DataFolder,
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._live = live
        self._db = db
        self._futures = futures
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._completion = completion
        self._recovery = recovery
        self._points = points
        self._resting = resting
        self._folders = folders
        self._tasks = tasks
        self._metrics = metrics
        self._progress = False
        self.lives = 0

    def take(self, event: Event) -> None:
        """Handle an event; called on the event loop."""
        match event:
            case Result() | Failure():
                self._on_outcome(event)
            case Flushed(request_id):
                self._tasks.start(self._on_flushed(request_id))
            case Ready(models):
                self._tasks.start(self._on_ready(models, self._dispatcher.born()))
            case Lost(reason):
                self._on_lost(reason)
            case Stats(values):
                self._metrics.engine(values)

    def _on_outcome(self, event: Result | Failure) -> None:
        internal = self._dispatcher.take_internal(event.request_id)
        if internal is not None:
            follow = internal.done(event) if isinstance(event, Result) else internal.failed(event)
            if inspect.iscoroutine(follow):
                self._tasks.start(follow)
            return
        replayed = self._dispatcher.take_replayed(event.request_id)
        if replayed is not None:
            self._tasks.start(self._on_replayed(replayed, event))
            return
        record = self._futures.find(event.request_id)
        if record is None or record.state is not State.PENDING:
            return
        self._progress = True
        if isinstance(event, Result):
            self._completion.result(record, event)
        else:
            self._completion.failure(record, event)
        self._metrics.operations.labels(record.kind.value, record.state.value).inc()

    async def _on_replayed(self, record: Record, event: Result | Failure) -> None:
        if isinstance(event, Failure):
            await self._recovery.replay_failed(record, event)
        elif record.kind is OpKind.SNAPSHOT and (sampler := self._live.samplers.get(record.sampler_id or "")):
            await self._dispatcher.sampler_ready(sampler)

    async def _on_flushed(self, request_id: str) -> None:
        record = self._futures.find(request_id)
        if record is None or not isinstance(record.work, Snapshot):
            return
        sampler = self._live.samplers.get(record.sampler_id or "")
        if sampler is None:  # let go of while it was being written
            await self._folders.remove(record.work.folder)
            return
        sampler.on_disk = True
        self._resting.make_room(sampler)
        statement = update(SamplerRow).where(SamplerRow.id == sampler.id).values(on_disk=True)
        await self._db.write(lambda connection: connection.execute(statement))
        run = self._live.runs.get(sampler.model_id or "")
        if run is not None:
            await self._points.prune(run)

    async def _on_ready(self, models: list[BaseModelInfo], life: int) -> None:
        self._progress = False
        self.lives += 1
        await self._catalog.up(models)
        if await self._recovery.rebuild(life):
            log.info("the engine is up with %s", ", ".join(model.name for model in models))

    def _on_lost(self, reason: str) -> None:
        log.error("the engine is lost: %s", reason)
        self._catalog.down()
        self._recovery.lost(reason, self._progress)
        self._dispatcher.lost()
