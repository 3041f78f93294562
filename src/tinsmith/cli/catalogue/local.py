"""The catalogue of a data folder, straight from its database, also while a service holds the folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tinsmith.cli.catalogue.opening import Found, FoundRuns
from tinsmith.server.store.checkpoint_store import CheckpointStore, check_ttl
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.keys import LOCAL
from tinsmith.server.store.listings import Listings
from tinsmith.server.store.paging import Paging
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.responses import Checkpoint, TrainingRun, WeightsInfoResponse

T = TypeVar("T")
# As many rows as a database can count.
_ALL = 2**31


class LocalCatalogue:
    """Checkpoints and runs of whoever uses the embedded service here, which are those of a served one's first key, too.

    The stores are the service's own, which several processes may use at once: a checkpoint that is deleted here is
    gone for a running service, and what it had made from it keeps working.

    Args:
        settings: name the database and the bounds of a lifetime.
        root: the data folder.

    Attributes:
        where: the data folder.

    Raises:
        StartupError: the database cannot be used.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.where = str(root)
        self._settings = settings
        folder = DataFolder(root)
        self._db = Database(settings.database_url or default_url(folder.root), settings.durability)
        try:
            self._db.migrate(folder.root / "migrate.lock")
        except BaseException as error:
            self._db.close()
            raise self._fault(error) if isinstance(error, SQLAlchemyError) else error from error
        self._checkpoints = CheckpointStore(self._db, folder)
        self._listings = Listings(self._db, self._checkpoints)

    def checkpoints(self, run_id: str | None, limit: int) -> Found:
        """Return checkpoints, newest first."""
        if run_id is not None:
            self.run(run_id)  # says so where there is none
            saved = self._ask(self._checkpoints.of_run(run_id, LOCAL))
            return Found([one.wire() for one in saved[: limit or None]], len(saved))
        saved, total = self._ask(self._checkpoints.of_owner(LOCAL, Paging(limit or _ALL, 0)))
        return Found([one.wire() for one in saved], total)

    def checkpoint(self, path: CheckpointPath) -> Checkpoint:
        """Return one checkpoint."""
        return self._ask(self._checkpoints.readable(path, {LOCAL}, "checkpoint")).wire()

    def shape(self, path: CheckpointPath) -> WeightsInfoResponse:
        """Return what a checkpoint's adapter acts on."""
        saved = self._ask(self._checkpoints.readable(path, {LOCAL}, "checkpoint"))
        return saved.shape()

    def delete(self, path: CheckpointPath) -> None:
        """Delete a checkpoint and its files."""
        self._ask(self._checkpoints.delete(path, LOCAL))

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Let every key of a service on this folder read a checkpoint, or its owner's alone."""
        self._ask(self._checkpoints.change(path, LOCAL, public=public))

    def set_ttl(self, path: CheckpointPath, seconds: int | None) -> None:
        """Set how long a checkpoint is kept from now on."""
        check_ttl(seconds, self._settings.checkpoint_min_ttl_s, self._settings.checkpoint_max_ttl_s)
        expires_at = None if seconds is None else time.time() + seconds
        self._ask(self._checkpoints.change(path, LOCAL, expires_at=expires_at))

    def runs(self, limit: int) -> FoundRuns:
        """Return training runs, the one used last first."""
        page = self._ask(self._listings.runs(LOCAL, Paging(limit or _ALL, 0), accessible=False, project_id=None))
        return FoundRuns(page.training_runs, page.cursor.total_count)

    def run(self, run_id: str) -> TrainingRun:
        """Return one training run."""
        return self._ask(self._listings.run(run_id, LOCAL, accessible=True))

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _ask(self, asking: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run(asking)
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def _fault(self, error: BaseException) -> StartupError:
        return StartupError(f"database of {self.where}: it cannot be used: {getattr(error, 'orig', None) or error}")
