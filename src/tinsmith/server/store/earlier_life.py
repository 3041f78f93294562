"""Reading back what an earlier life of the service left in the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from tinsmith.server.state.live import LiveSession, LiveState, RecoveryPoint, RunStatus, SamplingSession, TrainingRun
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RecoveryPointRow, RunRow, SamplerRow, SessionRow
from tinsmith.server.store.folder_lock import Claim
from tinsmith.server.store.recordings import forget_sessions
from tinsmith.types.engine_messages.operations import OpKind, TakeSnapshot
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.params import LoraConfig

ALIVE = ("active", "closing")


def load(core: Core) -> list[tuple[Record, str, RequestErrorCategory]]:
    """Fill the live state and the futures; return pending operations that are hopeless, each with its error."""
    live = core.live
    rows = core.db.read(lambda connection: _rows(connection, core.instance))
    # Nobody could speak to a service that was down, so every silence begins anew.
    now = live.now()
    for row in rows[SessionRow]:
        session = LiveSession(row.id, row.owner, now, seen_at=row.last_seen_at, closing=row.status == "closing")
        live.add_session(session)
    for row in rows[RunRow]:
        live.add_run(_run(row))
    for row in rows[SamplerRow]:
        live.add_sampler(_sampler(row))
    # Before the operations, which are placed behind the cut that the points make.
    for row in rows[RecoveryPointRow]:
        live.runs[row.model_id].points.append(RecoveryPoint(row.seq_id, row.folder))
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
            hopeless.append((record, "its session ended before it was done", RequestErrorCategory.USER))
    return hopeless


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


def _rows(connection: Connection, instance: str) -> dict[Any, list[Any]]:
    alive = select(SessionRow.id).where(SessionRow.instance == instance, SessionRow.status.in_(ALIVE))
    usable = select(RunRow.id).where(RunRow.session_id.in_(alive))
    queries = {
        SessionRow: select(*SessionRow.__table__.columns).where(SessionRow.id.in_(alive)),
        RunRow: select(*RunRow.__table__.columns).where(RunRow.session_id.in_(alive)),
        SamplerRow: select(*SamplerRow.__table__.columns).where(SamplerRow.session_id.in_(alive)),
        RecoveryPointRow: select(*RecoveryPointRow.__table__.columns)
        .where(RecoveryPointRow.model_id.in_(usable))
        .order_by(RecoveryPointRow.seq_id),
    }
    return {table: list(connection.execute(query)) for table, query in queries.items()}


def _run(row: Any) -> TrainingRun:
    return TrainingRun(
        row.id,
        row.session_id,
        row.owner,
        row.base_model,
        LoraConfig.model_validate(row.lora),
        RunStatus(row.status),
        row.error,
        last_request_at=row.last_request_at,
        # Whatever was replayed at the start, the next step may ask for a point.
        pointed_at=None,
        base_weights=row.base_weights,
    )


def _sampler(row: Any) -> SamplingSession:
    return SamplingSession(
        row.id,
        row.session_id,
        row.owner,
        row.base_model,
        row.model_path,
        row.folder,
        row.on_disk,
        row.model_id,
        row.model_seq,
        row.created_at,
        base_weights=row.base_weights,
    )


async def end_dead(core: Core, claim: Claim) -> None:
    """End what embedded services left whose process is gone: nobody can come back to it."""
    for instance, lock in claim.dead:
        sessions, runs = await core.db.write(lambda connection, name=instance: _end_instance(connection, name))
        await core.checkpoints.sweep_folders(runs, ())
        for session_id in sessions:
            await core.data_folder.remove_session(session_id)
        # Last of all: as long as it is there, the next start finishes what this one leaves.
        lock.release(remove=True)
    claim.dead.clear()


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
    connection.execute(update(SessionRow).where(where).values(status="interrupted", ended_at=SessionRow.last_seen_at))
    forget_sessions(connection, sessions)
    return sessions, runs
