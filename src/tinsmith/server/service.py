"""`Service`: everything of the API process, wired together; `app.create_app` puts it on HTTP."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from sqlalchemy import update

from tinsmith.server.auth import KeyStore
from tinsmith.server.blobs import BlobStore
from tinsmith.server.catalog import Catalog, LoadModel
from tinsmith.server.checkpoints import Checkpoints
from tinsmith.server.completion import Completion
from tinsmith.server.creation import Creation
from tinsmith.server.db.database import Database, default_url
from tinsmith.server.db.models import SamplerRow
from tinsmith.server.dispatch import Dispatcher
from tinsmith.server.folders import Folders
from tinsmith.server.futures import FutureStore
from tinsmith.server.intake import Intake
from tinsmith.server.journal import Journal, JournalLike, MemoryJournal
from tinsmith.server.listings import Listings
from tinsmith.server.live import LiveState
from tinsmith.server.loading import end_dead, load
from tinsmith.server.lock import FolderLock, dead_instances, new_instance
from tinsmith.server.metrics import Metrics
from tinsmith.server.ordered import Ordered
from tinsmith.server.points import RecoveryPoints
from tinsmith.server.records import Record, State
from tinsmith.server.recovery import Recovery
from tinsmith.server.sampling import Sampling
from tinsmith.server.saving import Saving
from tinsmith.server.sessions import Sessions
from tinsmith.server.sweeper import Sweeper
from tinsmith.server.tasks import Tasks
from tinsmith.server.tokenizers import TokenizerFiles
from tinsmith.server.training import Training
from tinsmith.settings import Settings
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.model_info import BaseModelInfo
from tinsmith.types.operations import EngineLink, Event, Failure, Flushed, Lost, OpKind, Ready, Result, Stats

log = logging.getLogger("tinsmith.server")

SERVE = "serve"


class Service:
    """A service on one data folder.

    Args:
        settings: limits and times.
        link: the way to the engine host.
        data_dir: holds database, blobs and checkpoints.
        owner: whose requests these are when there is only one user, in this process; None asks for keys.
        journal: store operations, so that they outlive this process. Needs the data folder for itself among those that
            journal; services without a journal may share it.
        models: names that are to be served, each with its folder.
        load_model: how to load further models when they are first asked for; None serves `models` only.
    """

    def __init__(
        self,
        settings: Settings,
        link: EngineLink,
        data_dir: Path,
        *,
        owner: str | None = None,
        journal: bool = True,
        models: Mapping[str, Path] | None = None,
        load_model: LoadModel | None = None,
    ) -> None:
        self.settings = settings
        self.owner = owner
        self.folders = Folders(Path(data_dir))
        self._link = link
        self._journalled = journal
        self._models = dict(models or {})
        self._load_model = load_model
        self._lock: FolderLock | None = None
        self._failed: asyncio.Future[None] | None = None
        self._progress = False
        self.lives = 0
        self.metrics = Metrics()

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the data folder and start the engine host; requests may come once this returns.

        Raises:
            StartupError: another process holds the folder.
        """
        instance = self._acquire()
        try:
            self._open(instance)
            await self._clean_up()
        except BaseException:
            self._db.close()
            self._lock_held().release()
            raise
        self._failed = asyncio.get_running_loop().create_future()
        self.tasks.start(self._start_link())
        self.tasks.start(self.sweeper.run())

    def _acquire(self) -> str:
        """Take the lock of this service, and end what dead embedded ones left; return this service's name."""
        root = self.folders.root
        self._db = Database(self._database_url(), self.settings.durability)
        self._dead: list[tuple[str, FolderLock]] = []
        try:
            if self._journalled:
                self._lock = FolderLock(root / "serve.lock")
                self._lock.acquire()
            self._db.migrate(root / "migrate.lock")
            instances = root / "instances"
            instances.mkdir(exist_ok=True)
            with FileLock(str(root / "instances.lock")):
                self._dead = dead_instances(instances)
                if self._journalled:
                    return SERVE
                instance, self._lock = new_instance(instances)
                return instance
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            self._db.close()
            raise

    def _database_url(self) -> str:
        return self.settings.database_url or default_url(self.folders.root)

    def _lock_held(self) -> FolderLock:
        if self._lock is None:
            raise RuntimeError("the service has not been started")
        return self._lock

    def _open(self, instance: str) -> None:
        settings, db, folders = self.settings, self._db, self.folders
        self.live = live = LiveState()
        self.tasks = tasks = Tasks()
        self.futures = futures = FutureStore()
        self.keys = KeyStore(db)
        self.catalog = catalog = Catalog(db, self._models, self._load_model)
        self.checkpoints = checkpoints = Checkpoints(db, folders)
        self.listings = Listings(db, checkpoints)
        self.tokenizers = TokenizerFiles()
        self._orphans: list[Record] = []
        self.journal: JournalLike = MemoryJournal(db)
        if self._journalled:
            blobs = BlobStore(settings.blob_url or str(folders.root / "blobs"), settings.durability == "full")
            self.journal = stored = Journal(db, blobs, instance)
            self._orphans = load(db, stored, instance, live, futures)
            self._stored = stored
        catalog.remember()
        self.dispatcher = dispatcher = Dispatcher(self._link, self.journal, live, folders)
        self.completion = Completion(futures, self.journal, live, checkpoints, folders, dispatcher, tasks)
        self.points = points = RecoveryPoints(
            live, db, self.journal, dispatcher, folders, tasks, settings.recovery_interval_s
        )
        self.recovery = Recovery(live, db, futures, self.journal, dispatcher, self.completion, points, catalog, folders)
        self.intake = intake = Intake(futures, self.journal, live, dispatcher, points)
        ordered = Ordered(live, intake)
        self.training = Training(settings, catalog, ordered)
        self.saving = saving = Saving(settings, live, checkpoints, folders, futures, ordered)
        self.creation = Creation(settings, live, catalog, checkpoints, folders, intake, ordered, saving)
        self.sampling = Sampling(settings, live, db, catalog, checkpoints, folders, futures, dispatcher, intake, saving)
        self.sessions = Sessions(instance, settings.session_timeout_s, live, db, futures, dispatcher, folders, tasks)
        self.sweeper = Sweeper(settings, live, futures, self.journal, self.sessions, checkpoints, dispatcher)

    async def _clean_up(self) -> None:
        """Finish what earlier lives left half done."""
        for instance, lock in self._dead:
            sessions, runs = await self._db.write(lambda connection, name=instance: end_dead(connection, name))
            await self.checkpoints.sweep_folders(runs, ())
            for session_id in sessions:
                await self.folders.remove_session(session_id, [r for r in runs if r.startswith(f"{session_id}:")])
            lock.release(remove=True)
        for record in self._orphans:
            self.completion.fail(record, "its session ended before it was done", RequestErrorCategory.USER)
        await self.sessions.sweep()
        for session in list(self.live.sessions.values()):
            if session.closing:
                self.sessions.drain(session)
        saving = {record.wire.get("checkpoint_folder", "") for record in self.futures.records()}
        await self.checkpoints.sweep_folders(list(self.live.runs), saving)
        if self._journalled:
            await self._stored.sweep_blobs(list(self.futures.records()))

    async def _start_link(self) -> None:
        try:
            await self._link.start(self._on_event)
        except Exception as error:
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)
                self._failed.exception()  # seen: whoever waits in wait_ready gets it too

    async def wait_ready(self) -> None:
        """Wait until every model is loaded.

        Raises:
            StartupError: an engine cannot be started.
        """
        ready = asyncio.ensure_future(self.catalog.wait_loaded())
        if self._failed is None:
            raise RuntimeError("the service has not been started")
        await asyncio.wait({ready, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            ready.cancel()
            self._failed.result()

    def drain(self) -> None:
        """Let polls that are being held answer now, because the service is about to stop."""
        self.futures.closing.set()

    async def stop(self) -> None:
        """Stop the engine host and close the data folder; what is journalled goes on at the next start."""
        self.drain()
        self.dispatcher.open = False
        await self._link.close()
        await self.tasks.stop()
        self._db.close()
        self._lock_held().release(remove=not self._journalled)

    # -- events of the engine host ------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Result() | Failure():
                self._on_outcome(event)
            case Flushed(op_id):
                self.tasks.start(self._on_flushed(op_id))
            case Ready(models):
                self.tasks.start(self._on_ready(models, self.dispatcher.born()))
            case Lost(reason):
                self._on_lost(reason)
            case Stats(values):
                self.metrics.engine(values)

    def _on_outcome(self, event: Result | Failure) -> None:
        internal = self.dispatcher.take_internal(event.op_id)
        if internal is not None:
            follow = internal.done(event) if isinstance(event, Result) else internal.failed(event)
            if inspect.iscoroutine(follow):
                self.tasks.start(follow)
            return
        replayed = self.dispatcher.take_replayed(event.op_id)
        if replayed is not None:
            self.tasks.start(self._on_replayed(replayed, event))
            return
        record = self.futures.find(event.op_id)
        if record is None or record.state is not State.PENDING:
            return
        self._progress = True
        if isinstance(event, Result):
            self.completion.result(record, event)
        else:
            self.completion.failure(record, event)
        self.metrics.operations.labels(record.kind.value, record.state.value).inc()

    async def _on_replayed(self, record: Record, event: Result | Failure) -> None:
        if isinstance(event, Failure):
            await self.recovery.replay_failed(record, event)
        elif record.kind is OpKind.SNAPSHOT and (sampler := self.live.samplers.get(record.sampler_id or "")):
            await self.dispatcher.sampler_ready(sampler)

    async def _on_flushed(self, op_id: str) -> None:
        record = self.futures.find(op_id)
        sampler = self.live.samplers.get(record.sampler_id or "") if record is not None else None
        if sampler is None:
            return
        sampler.on_disk = True
        statement = update(SamplerRow).where(SamplerRow.id == sampler.id).values(on_disk=True)
        await self._db.write(lambda connection: connection.execute(statement))
        run = self.live.runs.get(sampler.model_id or "")
        if run is not None:
            await self.points.prune(run)

    async def _on_ready(self, models: list[BaseModelInfo], life: int) -> None:
        self._progress = False
        self.lives += 1
        await self.catalog.up(models)
        if await self.recovery.rebuild(life):
            log.info("the engine is up with %s", ", ".join(model.name for model in models))

    def _on_lost(self, reason: str) -> None:
        log.error("the engine is lost: %s", reason)
        self.catalog.down()
        self.recovery.lost(reason, self._progress)
        self.dispatcher.lost()

    # -- for the pages ------------------------------------------------------------------------------------------------

    def metrics_page(self) -> bytes:
        """Return the metrics with gauges as they are now."""
        metrics = self.metrics
        metrics.pending.set(len(self.futures.pending(lambda _: True)))
        metrics.sessions.set(len(self.live.sessions))
        metrics.models.set(len(self.live.runs))
        metrics.samplers.set(len(self.live.samplers))
        metrics.lives.set(self.lives)
        metrics.up.set(self.catalog.healthy)
        return metrics.page()

    @property
    def db(self) -> Database:
        """The database."""
        return self._db
