"""What killed scripts had trained and not saved: runs of dead embedded services, each with what it is rebuilt from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from tinsmith.server.state.live import RecoveryPoint
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.readable import read_rows
from tinsmith.server.store.db.tables import RecoveryPointRow, RunRow, SessionRow
from tinsmith.server.store.journal.run_log import RunLog
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.params import LoraConfig

log = logging.getLogger("tinsmith.server")

ALIVE = ("active", "closing")
# How long they are kept, and how long what is saved of them is.
KEPT_DAYS = 7
KEPT_S = KEPT_DAYS * 86_400.0
# So often it is tried to save one. What kills its process each time must not keep every later script from starting.
TRIES = 3


@dataclass(frozen=True, slots=True)
class UnsavedRun:
    """A run whose last optimizer steps no saved state holds.

    Attributes:
        id, owner, base_model, lora, base_weights, user_metadata: as the run had them.
        point: its newest recovery point; None: it is rebuilt from its creation.
        operations: what followed, up to the last that counts; the creation first, where there is no point.
    """

    id: str
    owner: str
    base_model: str
    lora: LoraConfig
    base_weights: str | None
    user_metadata: dict[str, Any] | None
    point: RecoveryPoint | None
    operations: list[Record]


async def unsaved_runs(core: Core, instance: str) -> list[UnsavedRun]:
    """Return what a dead embedded service had not saved, without runs that are too old or were tried too often."""

    def read(connection: Connection) -> list[tuple[Any, list[RecoveryPoint]]]:
        sessions = select(SessionRow.id).where(
            SessionRow.instance == instance,
            SessionRow.status.in_(ALIVE),
            SessionRow.last_seen_at > core.clock.wall() - KEPT_S,
        )
        alive = select(RunRow.id).where(RunRow.session_id.in_(sessions), RunRow.status.not_in(("failed", "ended")))
        found: list[tuple[Any, list[RecoveryPoint]]] = []
        for run in read_rows(connection, RunRow, alive):
            if (fault := run.fault()) is not None:
                log.warning("%s; what it had not saved is lost", fault)
                continue
            query = select(RecoveryPointRow.id).where(RecoveryPointRow.model_id == run.row.id)
            points = read_rows(connection, RecoveryPointRow, query.order_by(RecoveryPointRow.seq_id))
            found.append((run.row, [RecoveryPoint(p.row.seq_id, p.row.folder) for p in points if not p.faults]))
        return found

    runs = [_unsaved(core, row, points) for row, points in await core.db.read_async(read)]
    return [run for run in runs if run is not None]


def _unsaved(core: Core, row: Any, points: list[RecoveryPoint]) -> UnsavedRun | None:
    if tries(core, row.id) >= TRIES:
        return None
    point = points[-1] if points else None
    after = point.seq_id if point is not None else 0
    records = RunLog(core.data_folder).read(row.id, after)
    creation = [record for record in records if record.seq_id is None]
    if point is None and not creation:
        return None
    ordered = [record for record in records if record.seq_id is not None]
    last = _last(ordered, OpKind.OPTIM_STEP, OpKind.LOAD_STATE)
    if (point is None and not _last(ordered, OpKind.OPTIM_STEP)) or _last(ordered, OpKind.SAVE_STATE) > max(
        after, last
    ):
        return None
    # Gradients after the last step are no part of a state.
    counted = [record for record in ordered if (record.seq_id or 0) <= last]
    lora = LoraConfig.model_validate(row.lora)
    operations = counted if point is not None else [*creation, *counted]
    return UnsavedRun(row.id, row.owner, row.base_model, lora, row.base_weights, row.user_metadata, point, operations)


def _last(records: Iterable[Record], *kinds: OpKind) -> int:
    places = [r.seq_id or 0 for r in records if r.kind in kinds and r.state is State.DONE]
    return max(places, default=0)


def tries(core: Core, run_id: str) -> int:
    """Return how often it was begun to save a run."""
    try:
        return int(_tries_file(core, run_id).read_text())
    except (OSError, ValueError):
        return 0


def note_tries(core: Core, run_id: str, count: int) -> None:
    """Note it, before it is begun."""
    _tries_file(core, run_id).write_text(str(count))


def _tries_file(core: Core, run_id: str) -> Any:
    return core.data_folder.absolute(core.data_folder.recovery(run_id)) / "tries"
