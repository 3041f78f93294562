"""Reading back what an earlier life of the service left in the database."""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import Connection, delete, select, update

from tinsmith.server.state.live import LiveSession, LiveState, RecoveryPoint, RunStatus, SamplingSession, TrainingRun
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.readable import Found, read_rows
from tinsmith.server.store.db.tables import RecoveryPointRow, RunRow, SamplerRow, SessionRow
from tinsmith.server.store.folder.folder_lock import FolderLock
from tinsmith.server.store.recordings import forget_sessions
from tinsmith.server.store.unsaved import ALIVE, unsaved_runs
from tinsmith.types.engine_messages.operations import OpKind, TakeSnapshot
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.params import LoraConfig

log = logging.getLogger("tinsmith.server")

_ENDED = ("finished", "expired", "interrupted")


def load(core: Core) -> list[tuple[Record, str, RequestErrorCategory]]:
    """Fill the live state and the futures; return pending operations that are hopeless, each with its error."""
    live = core.live
    rows = core.db.read(lambda connection: _rows(connection, core.instance))
    lost = _fill(live, rows)
    hopeless: list[tuple[Record, str, RequestErrorCategory]] = []
    for record in core.journal.load():
        if record.damage is not None and core.futures.by_scope(record.scope) is not None:
            record.scope = None  # it is another's, or both would be damaged
        core.futures.add(record)
        alive = _place(record, live)
        if record.state is not State.PENDING:
            continue
        if record.damage is not None:
            hopeless.append((record, record.damage, RequestErrorCategory.SERVER))
            # It did nothing, and its failure is an outcome like any other; a run that cannot tell even its kind, and
            # so what its failure means, is not rebuilt.
            record.damage = None if record.kind is not OpKind.SKIP else record.damage
        elif not alive:
            hopeless.append((record, *_why_ended(core, record, lost)))
        elif (run := live.runs.get(record.model_id or "")) is not None and run.status is RunStatus.CORRUPTED:
            hopeless.append((record, f"model {run.id}: {run.error}", RequestErrorCategory.SERVER))
    return hopeless


def _fill(live: LiveState, rows: dict[Any, list[Found]]) -> dict[str, str]:
    """Fill the live state; return why sessions that could not be taken up were not.

    One row that cannot be read costs what it is about, and is named in the log.
    """
    lost: dict[str, str] = {}
    for found in (found for table in rows.values() for found in table):
        if (fault := found.fault()) is not None:
            log.error("%s", fault)
    for found in rows[SessionRow]:
        if (fault := found.fault("id", "owner")) is not None:
            lost[str(found.key)] = fault
            continue
        row = found.row
        seen_at = row.last_seen_at if row.last_seen_at is not None else time.time()
        # Nobody could speak to a service that was down, so every silence begins anew.
        session = LiveSession(row.id, row.owner, live.now(), seen_at=seen_at, closing=row.status == "closing")
        live.add_session(session)
    for found in rows[RunRow]:
        if found.row.session_id in live.sessions:
            live.add_run(_run(found, live.sessions[found.row.session_id].owner))
    for found in rows[SamplerRow]:
        if found.row.session_id in live.sessions:
            live.add_sampler(_sampler(found, live.sessions[found.row.session_id].owner))
    # Before the operations, which are placed behind the cut that the points make.
    for found in rows[RecoveryPointRow]:
        run = live.runs.get(found.row.model_id)
        if run is not None and (fault := found.fault("seq_id", "folder")) is not None:
            # Without it, a run would begin anew from an older one, without what the journal has forgotten since.
            run.status, run.error = RunStatus.CORRUPTED, f"{fault}; create a new client from its last checkpoint"
        elif run is not None:
            run.points.append(RecoveryPoint(found.row.seq_id, found.row.folder))
    return lost


def _why_ended(core: Core, record: Record, lost: dict[str, str]) -> tuple[str, RequestErrorCategory]:
    session_id = record.session_id or ""
    if session_id in lost:
        return f"its session cannot be taken up: {lost[session_id]}", RequestErrorCategory.SERVER
    known = select(SessionRow.id).where(SessionRow.id == session_id)
    if core.db.read(lambda connection: connection.execute(known).first()) is None:
        return f"database: sessions has no row {session_id!r}", RequestErrorCategory.SERVER
    return "its session ended before it was done", RequestErrorCategory.USER


def _place(record: Record, live: LiveState) -> bool:
    """Put an operation where it belongs; say whether its session is alive."""
    run = live.runs.get(record.model_id or "")
    # Only a creation has a key but no number: a load into a run that exists has both.
    if run is not None and record.seq_id is None and record.scope is not None:
        run.creation = record
    elif run is not None and record.seq_id is not None and record.seq_id > run.cut and _may_have(record, run):
        run.ops[record.seq_id] = record
    # A sampler's row is written with the snapshot's outcome; one that is still to come has none.
    unknown = record.state is State.PENDING and record.sampler_id not in live.samplers
    if run is not None and isinstance(record.work, TakeSnapshot) and unknown:
        live.add_sampler(_coming(record, record.work, run))
    return record.session_id in live.sessions


def _may_have(record: Record, run: TrainingRun) -> bool:
    # Where a damaged row names the place of a sound one, it has a wrong number; what may have taken effect counts.
    return record.damage is None or record.state is not State.PENDING or record.seq_id not in run.ops


def _coming(record: Record, snapshot: TakeSnapshot, run: TrainingRun) -> SamplingSession:
    return SamplingSession(
        record.sampler_id or "",
        run.session_id,
        run.owner,
        run.base_model,
        folder=snapshot.folder,
        on_disk=False,
        model_id=run.id,
        model_seq=record.seq_id,
    )


def _rows(connection: Connection, instance: str) -> dict[Any, list[Found]]:
    # Whatever is no known end: a session is not over because nobody can read how it was.
    alive = select(SessionRow.id).where(SessionRow.instance == instance, SessionRow.status.not_in(_ENDED))
    usable = select(RunRow.id).where(RunRow.session_id.in_(alive))
    queries = {
        SessionRow: select(SessionRow.id).where(SessionRow.id.in_(alive)),
        RunRow: select(RunRow.id).where(RunRow.session_id.in_(alive)),
        SamplerRow: select(SamplerRow.id).where(SamplerRow.session_id.in_(alive)),
        RecoveryPointRow: select(RecoveryPointRow.id)
        .where(RecoveryPointRow.model_id.in_(usable))
        .order_by(RecoveryPointRow.seq_id),
    }
    return {table: read_rows(connection, table, query) for table, query in queries.items()}


def _run(found: Found, owner: str) -> TrainingRun:
    row = found.row
    status, error, lora = RunStatus.CORRUPTED, found.fault("owner", "base_model", "lora", "status"), LoraConfig()
    if error is None:
        try:
            status, lora, error = RunStatus(row.status), LoraConfig.model_validate(row.lora), row.error
        except ValueError:
            error = f"database: row {row.id!r} of runs cannot be read: got status {row.status!r}, lora {row.lora!r}"
            log.error("%s", error)
    return TrainingRun(
        row.id,
        row.session_id,
        row.owner or owner,
        row.base_model or "",
        lora,
        status,
        error,
        last_request_at=row.last_request_at or time.time(),
        # Whatever was replayed at the start, the next step may ask for a point.
        pointed_at=None,
        base_weights=row.base_weights,
    )


def _sampler(found: Found, owner: str) -> SamplingSession:
    row = found.row
    return SamplingSession(
        row.id,
        row.session_id,
        row.owner or owner,
        row.base_model or "",
        row.model_path,
        row.folder,
        # Of one that cannot be read nothing is expected any more.
        row.on_disk if row.on_disk is not None else True,
        row.model_id,
        row.model_seq,
        row.created_at or time.time(),
        base_weights=row.base_weights,
        damage=found.fault(),
    )


async def end_dead(core: Core, dead: list[tuple[str, FolderLock]]) -> None:
    """End what embedded services left whose process is gone: nobody can come back to it.

    One that trained what it had not saved is left as it is, for `LeftBehind` to save it.
    """
    for instance, lock in dead:
        if await unsaved_runs(core, instance):
            lock.release()
            continue
        sessions, runs = await core.db.write(lambda connection, name=instance: _end_instance(connection, name))
        await core.checkpoints.sweep_folders(runs, ())
        for session_id in sessions:
            await core.data_folder.remove_session(session_id)
        # Last of all: as long as it is there, the next start finishes what this one leaves.
        lock.release(remove=True)
    dead.clear()


async def sweep_unfinished(core: Core) -> None:
    """Remove what was being written when the last life ended, except what an operation is about to write again."""
    saving = {folder for record in core.futures.records() if (folder := record.checkpoint_folder) is not None}
    await core.checkpoints.sweep_folders(list(core.live.runs), saving)
    # Of a database that is not the folder's, rows that named them may be missing.
    if core.belongs:
        await core.journal.sweep_blobs(list(core.futures.records()))


def _end_instance(connection: Connection, instance: str) -> tuple[list[str], list[str]]:
    """Mark what a dead embedded service left behind as ended; return the ids of its sessions and runs."""
    where = (SessionRow.instance == instance) & SessionRow.status.in_(ALIVE)
    sessions = list(connection.execute(select(SessionRow.id).where(where)).scalars())
    of_these = RunRow.session_id.in_(sessions)
    runs = list(connection.execute(select(RunRow.id).where(of_these)).scalars())
    connection.execute(update(RunRow).where(of_these).values(status="ended"))
    connection.execute(delete(RecoveryPointRow).where(RecoveryPointRow.model_id.in_(runs)))
    connection.execute(update(SessionRow).where(where).values(status="interrupted", ended_at=SessionRow.last_seen_at))
    forget_sessions(connection, sessions)
    return sessions, runs
