"""`Service`: everything of the API process, wired together; `app.create_app` puts it on HTTP."""

from __future__ import annotations

import asyncio

from sqlalchemy.exc import SQLAlchemyError

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.events import Events
from tinsmith.server.engine_link.left_behind import LeftBehind
from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.engine_link.recovery import Recovery
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.handlers.closing import ClosingHandler
from tinsmith.server.handlers.creation import CreationHandler
from tinsmith.server.handlers.importing import ImportingHandler
from tinsmith.server.handlers.intake.intake import Intake
from tinsmith.server.handlers.intake.limits import Limits
from tinsmith.server.handlers.intake.model_order import ModelOrder
from tinsmith.server.handlers.references import ReferencesHandler
from tinsmith.server.handlers.sampling import SamplingHandler
from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.handlers.sessions import SessionsHandler
from tinsmith.server.handlers.training import TrainingHandler
from tinsmith.server.handlers.waiting import Waiting
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.core import Core, open_core
from tinsmith.server.store.db.database import default_url
from tinsmith.server.store.db.integrity import damaged
from tinsmith.server.store.earlier_life import end_dead, load, sweep_unfinished
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.folder.folder_lock import Claim, claim
from tinsmith.server.store.keys import KeyStore
from tinsmith.server.store.listings import Listings
from tinsmith.server.store.tokenizer_files import TokenizerFiles
from tinsmith.server.sweeper import Sweeper
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import EngineLink

# How long a stop waits for outcomes that are being stored, seconds.
_STORE_S = 10.0


class Service:
    """A service on one data folder, `settings.home`.

    Args:
        owner: whose requests these are when there is only one user, in this process; None asks for keys.
        journal: store operations, so that their clients can come back to them. Needs the data folder for itself among
            those that journal; services without a journal may share it, and keep only what their runs are rebuilt from.
    """

    def __init__(
        self,
        settings: Settings,
        link: EngineLink,
        models: BaseModels,
        *,
        owner: str | None = None,
        journal: bool = True,
    ) -> None:
        self.settings = settings
        self.owner = owner
        self._data_folder = DataFolder(settings.home, settings.durability == "full")
        self._link = link
        self._models = models
        self._journalled = journal
        self._claim: Claim | None = None
        self._core: Core | None = None
        self._failed: asyncio.Future[None] | None = None

    @property
    def core(self) -> Core:
        """What is on disk and what is alive; once the service has been started."""
        if self._core is None:
            raise RuntimeError("the service has not been started")
        return self._core

    @property
    def lost(self) -> asyncio.Future[str] | None:
        """Done once another service has taken database or blobs, with the line that says so: stop then.

        None where services share the database, as those without a journal do.
        """
        return self.core.ownership.lost if self.core.ownership is not None else None

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the data folder and start the engine host; requests may come once this returns.

        Raises:
            StartupError: another process holds the folder, or the database cannot be used.
        """
        self._claim = held = claim(self._data_folder.root, exclusive=self._journalled)
        try:
            self._data_folder.keep_private()
            self._core = core = await open_core(self.settings, self._data_folder, held, self._models)
            self._wire(core)
            await self._take_over(core, held)
        except SQLAlchemyError as error:
            self._close()
            reason = getattr(error, "orig", None) or error
            url = self.settings.database_url or default_url(self._data_folder.root)
            raise damaged(url, str(reason)) from error
        except BaseException:
            self._close()
            raise
        self._failed = asyncio.get_running_loop().create_future()
        core.tasks.start(self._start_link(self._failed))
        core.tasks.start(core.clock.keep())
        core.tasks.start(self.keys.watch(core.futures))
        core.tasks.start(self.sweeper.run())

    def _wire(self, core: Core) -> None:
        """Make all who act, those first that the others act on."""
        self.keys = KeyStore(core.db)
        self.listings = Listings(core.db, core.checkpoints)
        self.tokenizers = TokenizerFiles()

        self.outcomes = outcomes = Outcomes(core)
        self.dispatcher = dispatcher = Dispatcher(core, self._link, outcomes, self.keys.weight_of)
        self.recovery_points = points = RecoveryPoints(core, dispatcher)
        self.left_behind = LeftBehind(core, dispatcher)
        recovery = Recovery(core, dispatcher, outcomes, points)
        self.events = Events(core, dispatcher, outcomes, recovery, points)

        limits = Limits(core)
        self.waiting = Waiting(core, dispatcher, limits)
        self.intake = intake = Intake(core, dispatcher, points, limits)
        model_order = ModelOrder(core, intake)
        self.saving = saving = SavingHandler(core, model_order, limits)
        self.training = TrainingHandler(core, model_order, ReferencesHandler(core, saving), limits)
        self.creation = creation = CreationHandler(core, intake, model_order, saving, limits)
        self.sampling = SamplingHandler(core, dispatcher, outcomes, intake, saving)
        self.closing = ClosingHandler(core, dispatcher, points)
        self.sessions = sessions = SessionsHandler(core, dispatcher, outcomes)
        self.importing = ImportingHandler(core, sessions, creation, saving, limits)
        self.sweeper = Sweeper(core, dispatcher, sessions)

    async def _take_over(self, core: Core, held: Claim) -> None:
        """Read what earlier lives left, and finish what they left half done."""
        await self.keys.learn_weights()
        hopeless = load(core)
        await end_dead(core, held.dead)
        for record, reason, category in hopeless:
            self.outcomes.fail(record, reason, category)
        await self.sessions.resume()
        # Last, when it is known which operations go on and will write their files.
        await sweep_unfinished(core)

    async def _start_link(self, failed: asyncio.Future[None]) -> None:
        try:
            await self._link.start(self.events.take)
        except Exception as error:
            failed.set_exception(error)
            failed.exception()  # seen: whoever waits in wait_ready gets it too

    async def wait_ready(self) -> None:
        """Wait until every model is loaded.

        Raises:
            StartupError: an engine cannot be started.
        """
        if self._failed is None:
            raise RuntimeError("the service has not been started")
        ready = asyncio.ensure_future(self.core.catalog.wait_loaded())
        await asyncio.wait({ready, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            ready.cancel()
            self._failed.result()

    def drain(self) -> None:
        """Let polls that are being held answer now, because the service is about to stop."""
        self.core.futures.release_polls()

    async def stop(self) -> None:
        """Stop the engine host and close the data folder; what is journalled goes on at the next start."""
        self.drain()
        # While the engine is there to let go of what it rebuilds.
        await self.left_behind.stop()
        if not self._journalled:
            await self.sessions.stop()
        # New work is kept from the host before it is told to stop; its last outcomes are stored before the database
        # closes.
        self.dispatcher.open = False
        await self._link.close()
        if self.lost is None or not self.lost.done():
            await self.outcomes.stored(_STORE_S)
        await self.sessions.stop_draining()
        await self.core.tasks.stop()
        if not self._journalled:
            await self.sessions.remove_remains()
        self._close()

    def _close(self) -> None:
        if self._core is not None:
            self._core.close()
        if self._claim is not None:
            self._claim.release()

    # -- for the pages ------------------------------------------------------------------------------------------------

    def metrics_page(self) -> bytes:
        """Return the metrics with gauges as they are now."""
        core, metrics = self.core, self.core.metrics
        metrics.pending.set(core.futures.usage.pending.total())
        metrics.sessions.set(len(core.live.sessions))
        metrics.models.set(len(core.live.runs))
        metrics.samplers.set(len(core.live.samplers))
        metrics.lives.set(self.events.lives)
        metrics.up.set(core.catalog.healthy)
        metrics.free.set(core.disk.free())
        for kind, size in core.disk.stored.items():
            metrics.stored.labels(kind).set(size)
        return metrics.page()
