"""The registry of checkpoints: rows of what is complete, and the folders they point to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from tinsmith.server.state.tasks import to_its_end
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.readable import read_rows, sound
from tinsmith.server.store.db.tables import CheckpointRow
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.paging import Paging
from tinsmith.types.errors import Damaged, invalid
from tinsmith.types.names.paths import CheckpointKind, CheckpointPath
from tinsmith.types.params import LoraConfig
from tinsmith.types.responses import Checkpoint, WeightsInfoResponse

log = logging.getLogger("tinsmith.server")

_CHUNK = 500  # runs per statement; SQLite allows about a thousand parameters on old versions


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint.

    Attributes:
        path: its address.
        owner: whose run saved it.
        folder: where its files lie, relative to the data folder.
        base_model, lora: what it fits.
        public: whether other keys may read it.
        created_at, expires_at: seconds since the epoch.
    """

    path: CheckpointPath
    owner: str
    folder: str
    base_model: str
    lora: LoraConfig
    size_bytes: int
    public: bool
    user_metadata: dict[str, Any] | None
    created_at: float
    expires_at: float | None

    def wire(self) -> Checkpoint:
        """Return the form of the listings."""
        return Checkpoint(
            checkpoint_id=self.path.checkpoint_id,
            checkpoint_type=self.path.checkpoint_type,
            time=utc(self.created_at),
            tinker_path=str(self.path),
            size_bytes=self.size_bytes,
            public=self.public,
            user_metadata=self.user_metadata,
            expires_at=utc(self.expires_at) if self.expires_at is not None else None,
            base_model=self.base_model,
            lora_rank=self.lora.rank,
        )

    def shape(self) -> WeightsInfoResponse:
        """Return what it fits and acts on."""
        lora = self.lora
        return WeightsInfoResponse(
            base_model=self.base_model,
            lora_rank=lora.rank,
            train_unembed=lora.train_unembed,
            train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
        )


def utc(seconds: float) -> datetime:
    """Return a time with its zone."""
    return datetime.fromtimestamp(seconds, UTC)


def _saved(row: Any) -> Saved:
    kind: CheckpointKind = "weights" if row.kind == "weights" else "sampler_weights"
    return Saved(
        path=CheckpointPath(row.run_id, kind, row.name),
        owner=row.owner,
        folder=row.folder,
        base_model=row.base_model,
        lora=LoraConfig.model_validate(row.lora),
        size_bytes=row.size_bytes,
        public=row.public,
        user_metadata=row.user_metadata,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _at(path: CheckpointPath) -> Any:
    row = CheckpointRow
    return (row.run_id == path.run_id) & (row.kind == path.kind) & (row.name == path.name)


class CheckpointStore:
    """Looks up, lists, changes and deletes saved checkpoints; other services may share the database.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, db: Database, data_folder: DataFolder, wall: Callable[[], float] = time.time) -> None:
        self._db = db
        self._data_folder = data_folder
        self._wall = wall

    def _alive(self) -> Any:
        return or_(CheckpointRow.expires_at.is_(None), CheckpointRow.expires_at > self._wall())

    # -- looking up ---------------------------------------------------------------------------------------------------

    async def find(self, path: CheckpointPath) -> Saved | None:
        """Return a checkpoint, whoever owns it; None if there is none or it has expired.

        Raises:
            Damaged: its row cannot be read.
        """
        query = select(CheckpointRow.id).where(_at(path), self._alive())
        found = await self._db.read_async(lambda connection: read_rows(connection, CheckpointRow, query))
        if found and (fault := found[0].fault()) is not None:
            raise Damaged(fault)
        return _saved(found[0].row) if found else None

    async def readable(self, path: CheckpointPath, owners: Collection[str], field: str = "path") -> Saved:
        """Return a checkpoint that one of the owners has or that is published.

        Raises:
            UserError: there is none (404).
        """
        saved = await self.find(path)
        if saved is None or not (saved.public or saved.owner in owners):
            raise invalid(field, str(path), "a checkpoint of yours or a published one", status=404)
        return saved

    async def owned(self, path: CheckpointPath, owner: str) -> Saved:
        """Return a checkpoint of the owner's.

        Raises:
            UserError: there is none (404).
        """
        saved = await self.find(path)
        if saved is None or saved.owner != owner:
            raise invalid("checkpoint", str(path), "a checkpoint of yours", status=404)
        return saved

    async def of_run(self, run_id: str, owner: str) -> list[Saved]:
        """Return a run's checkpoints that the owner may read, newest first."""
        query = select(CheckpointRow.id).where(
            CheckpointRow.run_id == run_id, self._alive(), or_(CheckpointRow.owner == owner, CheckpointRow.public)
        )
        return await self._select(query.order_by(CheckpointRow.id.desc()))

    async def of_runs(self, run_ids: Sequence[str], owner: str) -> dict[str, list[Saved]]:
        """Return the checkpoints of several runs that the owner may read, of each newest first."""
        found: dict[str, list[Saved]] = {run_id: [] for run_id in run_ids}
        for start in range(0, len(run_ids), _CHUNK):
            query = select(CheckpointRow.id).where(
                CheckpointRow.run_id.in_(run_ids[start : start + _CHUNK]),
                self._alive(),
                or_(CheckpointRow.owner == owner, CheckpointRow.public),
            )
            for saved in await self._select(query.order_by(CheckpointRow.id.desc())):
                found[saved.path.run_id].append(saved)
        return found

    async def of_owner(self, owner: str, page: Paging) -> tuple[list[Saved], int]:
        """Return a page of an owner's checkpoints over all runs, newest first, and how many there are."""
        where = (CheckpointRow.owner == owner, self._alive())
        query = page.of(select(CheckpointRow.id).where(*where))
        total = select(func.count()).select_from(CheckpointRow).where(*where)
        found = await self._select(query.order_by(CheckpointRow.id.desc()))
        return found, await self._db.read_async(lambda connection: connection.execute(total).scalar_one())

    async def size_of(self, owner: str) -> int:
        """Return the bytes that an owner's checkpoints take."""
        where = (CheckpointRow.owner == owner, self._alive())
        query = select(func.coalesce(func.sum(CheckpointRow.size_bytes), 0)).where(*where)
        return int(await self._db.read_async(lambda connection: connection.execute(query).scalar_one()))

    async def _select(self, query: Any) -> list[Saved]:
        # One that cannot be read must not hide the others.
        found = await self._db.read_async(lambda connection: sound(read_rows(connection, CheckpointRow, query)))
        return [_saved(row) for row in found]

    # -- changing -----------------------------------------------------------------------------------------------------

    def insert(self, connection: Connection, saved: Saved) -> str | None:
        """Write a complete checkpoint's row; return the folder of the one it replaces, if it does."""
        old = connection.execute(select(CheckpointRow.folder).where(_at(saved.path))).scalar()
        connection.execute(delete(CheckpointRow).where(_at(saved.path)))
        row = {
            "run_id": saved.path.run_id,
            "kind": saved.path.kind,
            "name": saved.path.name,
            "owner": saved.owner,
            "folder": saved.folder,
            "base_model": saved.base_model,
            "lora": saved.lora.model_dump(),
            "size_bytes": saved.size_bytes,
            "public": saved.public,
            "user_metadata": saved.user_metadata,
            "created_at": saved.created_at,
            "expires_at": saved.expires_at,
        }
        connection.execute(insert(CheckpointRow), row)
        return old if old != saved.folder else None

    async def change(self, path: CheckpointPath, owner: str, **values: Any) -> None:
        """Set `public` or `expires_at`; setting what is set already is no error.

        Raises:
            UserError: there is no such checkpoint of the owner's (404).
        """
        await self.owned(path, owner)
        statement = update(CheckpointRow).where(_at(path)).values(**values)
        await self._db.write(lambda connection: connection.execute(statement))

    async def delete(self, path: CheckpointPath, owner: str) -> None:
        """Delete a checkpoint; models and samplers made from it keep working.

        Raises:
            UserError: there is no such checkpoint of the owner's (404).
        """
        saved = await self.owned(path, owner)
        # Only the one that was looked up: another may have been saved over it since.
        statement = delete(CheckpointRow).where(_at(path), CheckpointRow.folder == saved.folder)

        async def delete_both() -> None:
            await self._db.write(lambda connection: connection.execute(statement))
            await self._data_folder.remove(saved.folder)

        await to_its_end(delete_both())

    async def sweep_expired(self) -> int:
        """Delete checkpoints whose lifetime is over; return how many."""
        over = CheckpointRow.expires_at <= self._wall()

        def job(connection: Connection) -> list[str]:
            rows = read_rows(connection, CheckpointRow, select(CheckpointRow.id).where(over))
            folders = [one.row.folder for one in rows if not one.faults]
            if folders:
                connection.execute(delete(CheckpointRow).where(CheckpointRow.folder.in_(folders)))
            return folders

        # Rows first: a death in between leaves files, which are swept, and no row that promises them.
        folders = await self._db.write(job)
        for folder in folders:
            await self._data_folder.remove(folder)
        return len(folders)

    async def shift(self, seconds: float) -> int:
        """Move the ends of all lifetimes, because the wall clock was moved; return how many there are."""
        limited = CheckpointRow.expires_at.is_not(None)
        statement = update(CheckpointRow).where(limited).values(expires_at=CheckpointRow.expires_at + seconds)
        return await self._db.write(lambda connection: connection.execute(statement).rowcount)

    async def sweep_folders(self, run_ids: Sequence[str], saving: Collection[str]) -> None:
        """Clear up folders of these runs that no row names and no pending operation is about to fill.

        What was being written is removed. A complete one is set aside: its row may be what is missing.
        """
        query = select(CheckpointRow.id).where(CheckpointRow.run_id.in_(run_ids))
        rows = await self._db.read_async(lambda connection: read_rows(connection, CheckpointRow, query))
        known = {one.row.folder for one in rows}
        # A row that cannot tell its folder may be of any.
        unsure = {one.row.run_id for one in rows if one.fault("folder") is not None}
        for run_id in run_ids:
            if run_id in unsure:
                continue
            for folder in self._data_folder.checkpoints_of(run_id):
                if folder in known or folder in saving:
                    continue
                # Engines write under a name with a dot in front and rename what is complete.
                if folder.rpartition("/")[2].startswith("."):
                    await self._data_folder.remove(folder)
                else:
                    aside = await self._data_folder.set_aside(folder)
                    log.warning("checkpoint %s is complete, but no row names it: it was moved to %s", folder, aside)


def check_ttl(ttl: int | None, least: int, most: int) -> int | None:
    """Return a lifetime in seconds that is allowed; None means for ever.

    Raises:
        UserError: it is out of range.
    """
    if ttl is not None and not least <= ttl <= most:
        raise invalid("ttl_seconds", ttl, f"{least} to {most} seconds, or null for no expiry")
    return ttl
