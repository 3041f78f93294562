"""Listings of training runs and sessions, live and ended."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, or_, select

from tinsmith.server.store.checkpoint_store import CheckpointStore, Saved, utc
from tinsmith.server.store.db import Database
from tinsmith.server.store.db.readable import Found, read_rows
from tinsmith.server.store.db.tables import CheckpointRow, RunRow, SamplerRow, SessionRow
from tinsmith.server.store.paging import Paging
from tinsmith.types.errors import Damaged, invalid
from tinsmith.types.params import LoraConfig
from tinsmith.types.responses import (
    GetSamplerResponse,
    SessionResponse,
    TrainingRun,
    TrainingRunsResponse,
)


class Listings:
    """Reads what a user may see."""

    def __init__(self, db: Database, checkpoints: CheckpointStore) -> None:
        self._db = db
        self._checkpoints = checkpoints

    async def runs(self, owner: str, page: Paging, accessible: bool, project_id: str | None) -> TrainingRunsResponse:
        """Return a page of training runs, the one used last first."""
        where: Any = _visible(owner, accessible)
        if project_id is not None:
            of_project = select(SessionRow.id).where(SessionRow.project_id == project_id)
            where = where & RunRow.session_id.in_(of_project)
        query = page.of(select(RunRow.id).where(where))
        query = query.order_by(RunRow.last_request_at.desc(), RunRow.id)
        total = select(func.count()).select_from(RunRow).where(where)

        def job(connection: Connection) -> tuple[list[Found], int]:
            return read_rows(connection, RunRow, query), connection.execute(total).scalar_one()

        rows, count = await self._db.read_async(job)
        saved = await self._checkpoints.of_runs([found.row.id for found in rows], owner)
        runs = [_run(found, owner, saved[found.row.id]) for found in rows]
        return TrainingRunsResponse(training_runs=runs, cursor=page.cursor(count))

    async def run(self, run_id: str, owner: str, accessible: bool) -> TrainingRun:
        """Return one training run.

        Raises:
            UserError: there is none that the owner may see (404).
        """
        query = select(RunRow.id).where(RunRow.id == run_id, _visible(owner, accessible))
        found = await self._db.read_async(lambda connection: read_rows(connection, RunRow, query))
        if not found:
            raise invalid("training_run_id", run_id, "a training run of yours", status=404)
        return _run(found[0], owner, await self._checkpoints.of_run(run_id, owner))

    async def sessions(self, owner: str, page: Paging) -> list[str]:
        """Return a page of session ids, newest first."""
        query = page.of(select(SessionRow.id).where(SessionRow.owner == owner))
        query = query.order_by(SessionRow.created_at.desc(), SessionRow.id)
        return await self._db.read_async(lambda connection: list(connection.execute(query).scalars()))

    async def session(self, session_id: str, owner: str) -> SessionResponse:
        """Return a session's runs and samplers.

        Raises:
            UserError: there is no such session of the owner's (404).
        """
        mine = SessionRow.owner == owner
        session = select(SessionRow.id).where(SessionRow.id == session_id, mine)
        runs = select(RunRow.id).where(RunRow.session_id == session_id).order_by(RunRow.created_at)
        samplers = select(SamplerRow.id).where(SamplerRow.session_id == session_id).order_by(SamplerRow.created_at)

        def job(connection: Connection) -> SessionResponse | None:
            found = read_rows(connection, SessionRow, session)
            if not found:
                return None
            if (fault := found[0].fault("user_metadata", "display_name")) is not None:
                raise Damaged(fault)
            row = found[0].row
            return SessionResponse(
                training_run_ids=list(connection.execute(runs).scalars()),
                sampler_ids=list(connection.execute(samplers).scalars()),
                user_metadata=row.user_metadata,
                display_name=row.display_name,
            )

        found = await self._db.read_async(job)
        if found is None:
            raise invalid("session_id", session_id, "a session of yours", status=404)
        return found

    async def sampler(self, sampler_id: str, owner: str) -> GetSamplerResponse:
        """Return what a sampling session samples from.

        Raises:
            UserError: there is no such sampling session of the owner's (404).
        """
        query = select(SamplerRow.base_model, SamplerRow.model_path).where(
            SamplerRow.id == sampler_id, SamplerRow.owner == owner
        )
        row = await self._db.read_async(lambda connection: connection.execute(query).first())
        if row is None:
            raise invalid("sampling_session_id", sampler_id, "a sampling session of yours", status=404)
        return GetSamplerResponse(sampler_id=sampler_id, base_model=row.base_model, model_path=row.model_path)


def _visible(owner: str, accessible: bool) -> Any:
    if not accessible:
        return RunRow.owner == owner
    published = select(CheckpointRow.run_id).where(CheckpointRow.public)
    return or_(RunRow.owner == owner, RunRow.id.in_(published))


def _run(found: Found, owner: str, saved: list[Saved]) -> TrainingRun:
    row = found.row
    states = [s for s in saved if s.path.kind == "weights"]
    samplers = [s for s in saved if s.path.kind == "sampler_weights"]
    return TrainingRun(
        training_run_id=row.id,
        # What cannot be read of a damaged row is left empty.
        base_model=row.base_model or "",
        model_owner=row.owner or owner,
        lora_rank=LoraConfig.model_validate(row.lora).rank if row.lora is not None else None,
        last_request_time=utc(row.last_request_at or 0.0),
        corrupted=row.status == "corrupted" or found.fault() is not None,
        last_checkpoint=_first(states),
        last_sampler_checkpoint=_first(samplers),
        user_metadata=row.user_metadata,
        checkpoint_count=len(saved),
        size_bytes=sum(one.size_bytes for one in saved),
    )


def _first(saved: list[Saved]) -> Any:
    return saved[0].wire() if saved else None
