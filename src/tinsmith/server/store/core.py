"""`Core`: what nearly every part of the service works on, opened once and handed on whole."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import anyio.to_thread
from sqlalchemy import Connection, func, select

from tinsmith.clocks import JUMP_S, span
from tinsmith.server.state.clock import ServiceClock
from tinsmith.server.state.future_store import FutureStore
from tinsmith.server.state.live import LiveState
from tinsmith.server.state.prometheus import Metrics
from tinsmith.server.state.tasks import Tasks
from tinsmith.server.store.belonging import check_belonging
from tinsmith.server.store.catalog import BaseModels, Catalog
from tinsmith.server.store.checkpoint_store import CheckpointStore
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.db.tables import CheckpointRow, OperationRow, RecordingRow, SessionRow
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.folder.disk_space import DiskSpace
from tinsmith.server.store.folder.folder_lock import Claim
from tinsmith.server.store.journal.blobs import BlobStore
from tinsmith.server.store.journal.journal import Journal, JournalLike
from tinsmith.server.store.journal.memory_journal import MemoryJournal
from tinsmith.server.store.journal.run_log import RunLog
from tinsmith.server.store.ownership.ownership import Ownership
from tinsmith.server.store.ownership.places import BlobPlace, DatabasePlace
from tinsmith.server.store.recordings import Recordings, sessions_of
from tinsmith.settings import Settings

log = logging.getLogger("tinsmith.server")


@dataclass(frozen=True, slots=True)
class Core:
    """What is on disk and what is alive.

    A collaborator takes the whole of it and keeps the parts that it uses: its constructor says which. Whoever acts
    (`Dispatcher`, the handlers) is no part of it and is given by name, so that who acts on whom can be read there.

    Attributes:
        settings: limits and times.
        belongs: whether database and data folder belong together.
        instance: the service's name in the data folder; its sessions and operations carry it.
        ownership: its hold on database and blobs, if it is the one that stores operations.
    """

    settings: Settings
    instance: str
    data_folder: DataFolder
    belongs: bool
    db: Database
    journal: JournalLike
    ownership: Ownership | None
    catalog: Catalog
    checkpoints: CheckpointStore
    recordings: Recordings
    disk: DiskSpace
    clock: ServiceClock
    live: LiveState
    futures: FutureStore
    tasks: Tasks = field(default_factory=Tasks)
    metrics: Metrics = field(default_factory=Metrics)

    def close(self) -> None:
        """Commit what is queued, give back what the service holds, and close the database."""
        self.db.writer.finish()
        if self.ownership is not None:
            self.ownership.release()
        self.db.close()


async def open_core(settings: Settings, data_folder: DataFolder, claim: Claim, models: BaseModels) -> Core:
    """Open the database, bring its schema up to date, and put the rest on top of it.

    Raises:
        StartupError: a later version of Tinsmith made the schema, or another service holds database or blobs.
        SQLAlchemyError: the database cannot be used.
    """
    db = Database(settings.database_url or default_url(data_folder.root), settings.durability)
    tasks, lock = Tasks(), data_folder.root / "migrate.lock"
    ownership: Ownership | None = None
    try:
        db.check(lock)
        journal: JournalLike = MemoryJournal(db, RunLog(data_folder))
        if claim.exclusive:
            blobs = BlobStore(settings.blob_url or str(data_folder.root / "blobs"), settings.durability == "full")
            journal = Journal(db, blobs, claim.instance)
            ownership = await _own(db, blobs, tasks)
        # On a thread: signs of life go on, however long it takes.
        await anyio.to_thread.run_sync(db.upgrade, lock)
        clock = ServiceClock(last_stored(db, claim.instance), last_date(db))
        if clock.wall.behind > JUMP_S:
            log.warning(
                "the wall clock is %s behind what was stored last: is it wrong? Checkpoints with a lifetime go by the "
                "later time until it is set",
                span(clock.wall.behind),
            )
        core = Core(
            settings=settings,
            instance=claim.instance,
            data_folder=data_folder,
            belongs=check_belonging(db, data_folder),
            db=db,
            journal=journal,
            ownership=ownership,
            tasks=tasks,
            catalog=Catalog(db, models),
            disk=DiskSpace(data_folder.root, settings.disk_low_mb),
            checkpoints=CheckpointStore(db, data_folder, clock.wall),
            recordings=Recordings(db, settings, claim.instance, clock.now),
            clock=clock,
            live=LiveState(clock.now),
            futures=FutureStore(clock.now),
        )
        core.catalog.remember()
    except BaseException:
        await tasks.stop()
        db.writer.finish()
        if ownership is not None:
            ownership.release()
        db.close()  # its thread would go on otherwise
        raise
    return core


async def _own(db: Database, blobs: BlobStore, tasks: Tasks) -> Ownership:
    """Take database and blobs for this service; once another has taken one, nothing more is written to either."""
    ownership = Ownership([DatabasePlace(db), BlobPlace(blobs)])
    await ownership.take()
    tasks.start(ownership.keep())
    db.writer.guard = ownership.check
    ownership.lost.add_done_callback(lambda lost: setattr(blobs, "refusal", lost.result()))
    return ownership


def last_stored(db: Database, instance: str) -> float:
    """Return the last of the service's own times that a service's earlier lives have stored, to go on from there.

    Of a new one the wall clock's time, which is what was stored before the service had a time of its own.
    """
    recordings = select(func.max(RecordingRow.used_at)).where(sessions_of(instance))
    stored = select(func.max(OperationRow.settled_at), func.max(OperationRow.fetched_at)).where(
        OperationRow.instance == instance
    )

    def job(connection: Connection) -> list[float | None]:
        return [*connection.execute(stored).one(), connection.execute(recordings).scalar_one()]

    # What is damaged may be no number.
    return max((at for at in db.read(job) if isinstance(at, float)), default=time.time())


def last_date(db: Database) -> float:
    """Return the last date that is stored, seconds since the epoch."""
    dates = select(func.max(SessionRow.last_seen_at), select(func.max(CheckpointRow.created_at)).scalar_subquery())
    found = db.read(lambda connection: connection.execute(dates).one())
    return max((at for at in found if isinstance(at, float)), default=0.0)
