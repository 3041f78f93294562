"""Sessions: opened by a client, kept alive by its heartbeats, ended by it or by silence."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from sqlalchemy import Connection, Select, Update, bindparam, delete, insert, select, update

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.state.live import LiveSession, RunStatus
from tinsmith.server.state.records import Record
from tinsmith.server.state.tasks import Tasks, to_its_end
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RecoveryPointRow, RunRow, SessionRow
from tinsmith.server.store.recordings import forget_sessions
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory, UserError, invalid
from tinsmith.types.requests import CreateSessionRequest, FinishSessionRequest

log = logging.getLogger("tinsmith.server")

# How long work that was asked for before the end of a session may take.
_DRAIN_S = 600.0
# How long the endings that have begun may take when the service stops.
_STOP_S = 10.0

# Dates that a sweep stores in one job: a hundred rows take the database a few milliseconds.
_DATES_AT_ONCE = 100
_SESSIONS, _RUNS = (SessionRow.metadata.tables[row.__tablename__] for row in (SessionRow, RunRow))
_SEEN = update(_SESSIONS).where(_SESSIONS.c.id == bindparam("of")).values(last_seen_at=bindparam("at"))
_ACTIVE = update(_RUNS).where(_RUNS.c.id == bindparam("of")).values(last_request_at=bindparam("at"))

# Characters of why a session ended that are kept; an error's text may hold a whole batch.
_MOST_DETAIL = 16_384


class SessionsHandler:
    """Opens and ends sessions."""

    def __init__(self, core: Core, dispatcher: Dispatcher, outcomes: Outcomes) -> None:
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._instance = core.instance
        self._timeout_s = core.settings.session_timeout_s
        self._live = core.live
        self._db = core.db
        self._futures = core.futures
        self._data_folder = core.data_folder
        self._drains = Tasks()

    async def create(self, owner: str, request: CreateSessionRequest) -> str:
        """Open a session; return its id, which cannot be guessed."""
        session = LiveSession(str(uuid.uuid4()), owner, self._live.now())
        row = {
            "id": session.id,
            "instance": self._instance,
            "owner": owner,
            "status": "active",
            "created_at": session.seen_at,
            "last_seen_at": session.seen_at,
            "project_id": request.project_id,
            "display_name": request.display_name,
            "sdk_version": request.sdk_version,
            "tags": request.tags,
            "user_metadata": request.user_metadata,
        }

        async def add() -> None:
            # First the row, then the session: rows of its runs refer to it.
            await self._db.write(lambda connection: connection.execute(insert(SessionRow), row))
            self._live.add_session(session)

        await to_its_end(add())
        return session.id

    async def heartbeat(self, owner: str, session_id: str) -> None:
        """Note a sign of life.

        Raises:
            UserError: the session has ended (410) or there is none (404).
        """
        try:
            self._live.session(session_id, owner)
        except UserError:
            if await self._has_ended(owner, session_id):
                raise UserError(
                    f"session_id: got {session_id!r}, which has ended, expected a live session", 410
                ) from None
            raise

    async def _has_ended(self, owner: str, session_id: str) -> bool:
        row = await self._db.read_async(lambda connection: connection.execute(_by_id(session_id)).first())
        return row is not None and row.owner == owner

    async def finish(self, owner: str, session_id: str, request: FinishSessionRequest) -> None:
        """End a session for its client; what was asked for before is still carried out. The first reason counts.

        Raises:
            UserError: there is no such session (404).
        """
        session = self._live.sessions.get(session_id)
        if session is None or session.owner != owner:
            if await self._has_ended(owner, session_id):
                return
            raise invalid("session_id", session_id, "a session of yours", status=404)
        await to_its_end(self._finish(session, request))

    async def _finish(self, session: LiveSession, request: FinishSessionRequest) -> None:
        # One after the other: a repeat is answered once the first one is stored, or is stored itself.
        async with session.changing:
            if session.closing or self._live.sessions.get(session.id) is not session:
                return
            # Before the await, so that nothing new is accepted while this is being stored.
            session.closing = True
            values = {
                "status": "closing",
                "end_reason": request.reason.type,
                "end_detail": (request.detail or "")[:_MOST_DETAIL] or None,
            }
            try:
                await self._db.write(lambda connection: connection.execute(_update(session.id).values(values)))
            except BaseException:
                session.closing = False
                raise
        self.drain(session)

    def drain(self, session: LiveSession) -> None:
        """End a session once its training operations are done."""
        self._drains.start(self._drain(session))

    async def _drain(self, session: LiveSession) -> None:
        # Samples leave nothing behind that anybody could come back for; saves do.
        waiting = [r for r in self._futures.pending_of(session.id) if r.kind is not OpKind.SAMPLE]
        if waiting:
            settled = [asyncio.ensure_future(record.settled.wait()) for record in waiting]
            _, late = await asyncio.wait(settled, timeout=_DRAIN_S)
            for wait in late:
                wait.cancel()
        await self.end(session, "finished", "its session was finished")

    async def end(self, session: LiveSession, status: str, why: str) -> None:
        """End a session now: what is pending fails, memory and folders are freed; results can still be fetched."""
        # Gone before the first await: a sweep, a drain and a stop may all want to end it.
        if self._live.sessions.pop(session.id, None) is None:
            return
        runs = [self._live.runs.pop(run_id) for run_id in session.runs]
        samplers = [self._live.samplers.pop(sampler_id) for sampler_id in session.samplers]
        self._futures.may_expire(self._futures.of_session(session.id))
        for record in self._futures.pending_of(session.id):
            self._fail(record, why)
        for run in runs:
            run.status = RunStatus.ENDED
            self._dispatcher.release_model(run)
        for sampler in samplers:
            self._dispatcher.release_sampler(sampler)
        run_ids = [run.id for run in runs]
        ended = {"status": status, "ended_at": time.time(), "last_seen_at": session.seen_at}

        def job(connection: Connection) -> None:
            connection.execute(_update(session.id).values(ended))
            connection.execute(update(RunRow).where(RunRow.session_id == session.id).values(status="ended"))
            connection.execute(delete(RecoveryPointRow).where(RecoveryPointRow.model_id.in_(run_ids)))
            forget_sessions(connection, [session.id])

        await self._db.write(job)
        await self._data_folder.remove_session(session.id)
        log.info("session %s ended: %s", session.id, status)

    async def stop(self) -> None:
        """End all sessions of a service that nobody comes back to, so that nothing of them stays in its folder."""
        for session in list(self._live.sessions.values()):
            await self.end(session, "finished" if session.closing else "interrupted", "the service was stopped")
        await self._drains.finish(_STOP_S)

    async def remove_remains(self) -> None:
        """Remove what the engine, which has stopped by now, still wrote for sessions that had ended."""
        ours = select(SessionRow.id).where(SessionRow.instance == self._instance)
        for session_id in await self._db.read_async(lambda connection: list(connection.execute(ours).scalars())):
            await self._data_folder.remove_session(session_id)

    async def stop_draining(self) -> None:
        """Leave sessions that are being ended as they are: the next start goes on with them."""
        await self._drains.stop()

    def _fail(self, record: Record, why: str) -> None:
        if record.kind is OpKind.SAMPLE:
            self._dispatcher.cancel(record)
        self._outcomes.fail(record, why, RequestErrorCategory.USER)

    async def resume(self) -> None:
        """Go on with the sessions of an earlier life: end those that fell silent, drain those that were finished."""
        await self.sweep()
        for session in list(self._live.sessions.values()):
            if session.closing:
                self.drain(session)

    async def sweep(self) -> None:
        """End sessions that were silent too long, and store when the others were last seen."""
        now = self._live.now()
        for session in list(self._live.sessions.values()):
            if not session.closing and now - session.heard_at > self._timeout_s:
                await self.end(session, "expired", f"its session gave no sign of life for {self._timeout_s:g} s")
        # Not with each heartbeat, which would be a write each.
        seen = [{"of": session.id, "at": session.seen_at} for session in self._live.sessions.values()]
        active = [{"of": run.id, "at": run.last_request_at} for run in self._live.runs.values()]
        for statement, rows in ((_SEEN, seen), (_ACTIVE, active)):
            for start in range(0, len(rows), _DATES_AT_ONCE):
                some = rows[start : start + _DATES_AT_ONCE]
                await self._db.tidy(
                    lambda connection, statement=statement, some=some: connection.execute(statement, some)
                )


def _update(session_id: str) -> Update:
    return update(SessionRow).where(SessionRow.id == session_id)


def _by_id(session_id: str) -> Select[str, str]:
    return select(SessionRow.owner, SessionRow.status).where(SessionRow.id == session_id)
