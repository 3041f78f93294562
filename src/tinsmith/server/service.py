"""`Service`: everything of the API process, wired together; `app.create_app` puts it on HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.events import Events
from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.engine_link.recovery import Recovery
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.engine_link.resting import Resting
from tinsmith.server.handlers.closing import ClosingHandler
from tinsmith.server.handlers.creation import CreationHandler
from tinsmith.server.handlers.importing import ImportingHandler
from tinsmith.server.handlers.intake import Intake
from tinsmith.server.handlers.model_order import ModelOrder
from tinsmith.server.handlers.sampling import SamplingHandler
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.handlers.sessions import SessionsHandler
from tinsmith.server.handlers.training import TrainingHandler
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.live import LiveState
from tinsmith.server.state.prometheus import Metrics
from tinsmith.server.state.records import Record
from tinsmith.server.state.tasks import Tasks
from tinsmith.server.store.blobs import BlobStore
from tinsmith.server.store.catalog import Catalog, LoadModel
from tinsmith.server.store.checkpoint_store import CheckpointStore
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.earlier_life import end_dead, load
from tinsmith.server.store.folder_lock import Claim, claim
from tinsmith.server.store.folders import DataFolder
from tinsmith.server.store.journal import Journal, JournalLike, MemoryJournal
from tinsmith.server.store.keys import KeyStore
from tinsmith.server.store.listings import Listings
from tinsmith.server.store.tokenizer_files import TokenizerFiles
from tinsmith.server.sweeper import Sweeper
from tinsmith.settings import Settings
from tinsmith.types.errors import RequestErrorCategory, StartupError
from tinsmith.types.host_events import EngineLink

# How long a stop waits for outcomes that are being stored, seconds.
_STORE_S = 10.0


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
        self.folders = DataFolder(Path(data_dir))
        self._link = link
        self._journalled = journal
        self._models = dict(models or {})
        self._load_model = load_model
        self._claim: Claim | None = None
        self._db: Database | None = None
        self._failed: asyncio.Future[None] | None = None
        self.metrics = Metrics()

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the data folder and start the engine host; requests may come once this returns.

        Raises:
            StartupError: another process holds the folder, or the database cannot be used.
        """
        self._claim = claim(self.folders.root, exclusive=self._journalled)
        try:
            self._open(self._claim.instance)
            await self._clean_up(self._claim)
        except SQLAlchemyError as error:
            self._close()
            reason = getattr(error, "orig", None) or error
            raise StartupError(f"database: it cannot be used: {reason}") from error
        except BaseException:
            self._close()
            raise
        self._failed = asyncio.get_running_loop().create_future()
        self.tasks.start(self._start_link())
        self.tasks.start(self.sweeper.run())

    def _claimed(self) -> Claim:
        if self._claim is None:
            raise RuntimeError("the service has not been started")
        return self._claim

    def _open(self, instance: str) -> None:
        settings, folders = self.settings, self.folders
        url = settings.database_url or default_url(folders.root)
        self._db = db = Database(url, settings.durability)
        db.migrate(folders.root / "migrate.lock")
        self.live = live = LiveState()
        self.tasks = tasks = Tasks()
        self.futures = futures = FutureStore()
        self.keys = KeyStore(db)
        self.catalog = catalog = Catalog(db, self._models, self._load_model)
        self.checkpoints = checkpoints = CheckpointStore(db, folders)
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
        self.completion = Outcomes(futures, self.journal, live, checkpoints, folders, dispatcher, tasks)
        self.points = points = RecoveryPoints(
            live, db, self.journal, dispatcher, folders, tasks, settings.recovery_interval_s
        )
        self.recovery = Recovery(live, db, futures, self.journal, dispatcher, self.completion, points, catalog, folders)
        resting = Resting(settings, live, futures, dispatcher)
        self.events = Events(
            live,
            db,
            futures,
            catalog,
            dispatcher,
            self.completion,
            self.recovery,
            points,
            resting,
            folders,
            tasks,
            self.metrics,
        )
        self.intake = intake = Intake(futures, self.journal, live, dispatcher, points)
        ordered = ModelOrder(live, intake)
        self.training = TrainingHandler(settings, catalog, ordered)
        self.saving = saving = SavingHandler(settings, live, checkpoints, folders, futures, ordered)
        self.creation = creation = CreationHandler(
            settings, live, catalog, checkpoints, folders, intake, ordered, saving
        )
        self.sampling = SamplingHandler(
            settings, live, db, catalog, checkpoints, folders, futures, dispatcher, intake, saving
        )
        self.closing = ClosingHandler(live, db, futures, dispatcher, folders, points, tasks)
        self.sessions = sessions = SessionsHandler(
            instance, settings.session_timeout_s, live, db, futures, dispatcher, folders
        )
        self.importing = ImportingHandler(settings, live, catalog, folders, futures, sessions, creation, saving)
        self.sweeper = Sweeper(settings, live, futures, self.journal, sessions, checkpoints, resting)

    async def _clean_up(self, claim: Claim) -> None:
        """Finish what earlier lives left half done."""
        for instance, lock in claim.dead:
            sessions, runs = await self.db.write(lambda connection, name=instance: end_dead(connection, name))
            await self.checkpoints.sweep_folders(runs, ())
            for session_id in sessions:
                await self.folders.remove_session(session_id)
            lock.release(remove=True)
        claim.dead.clear()
        for record in self._orphans:
            self.completion.fail(record, "its session ended before it was done", RequestErrorCategory.USER)
        await self.sessions.sweep()
        for session in list(self.live.sessions.values()):
            if session.closing:
                self.sessions.drain(session)
        saving = {folder for record in self.futures.records() if (folder := record.checkpoint_folder) is not None}
        await self.checkpoints.sweep_folders(list(self.live.runs), saving)
        if self._journalled:
            await self._stored.sweep_blobs(list(self.futures.records()))

    async def _start_link(self) -> None:
        try:
            await self._link.start(self.events.take)
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
        if not self._journalled:
            await self.sessions.stop()
        self.dispatcher.open = False
        await self._link.close()
        await self.completion.stored(_STORE_S)
        await self.sessions.stop_draining()
        await self.tasks.stop()
        if not self._journalled:
            await self.sessions.remove_remains()
        self._close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._claimed().release()

    # -- for the pages ------------------------------------------------------------------------------------------------

    def metrics_page(self) -> bytes:
        """Return the metrics with gauges as they are now."""
        metrics = self.metrics
        metrics.pending.set(len(self.futures.pending(lambda _: True)))
        metrics.sessions.set(len(self.live.sessions))
        metrics.models.set(len(self.live.runs))
        metrics.samplers.set(len(self.live.samplers))
        metrics.lives.set(self.events.lives)
        metrics.up.set(self.catalog.healthy)
        return metrics.page()

    @property
    def db(self) -> Database:
        """The database."""
        if self._db is None:
            raise RuntimeError("the service has not been started")
        return self._db
