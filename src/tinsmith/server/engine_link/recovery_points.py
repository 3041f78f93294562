"""Recovery points: when a model's state is written to disk, and how much of the journal that makes superfluous."""

from __future__ import annotations

import logging
import time

import orjson
from sqlalchemy import delete, insert

from tinsmith.server.engine_link.dispatcher import Dispatcher, Internal
from tinsmith.server.state.live import LiveState, RecoveryPoint, TrainingRun
from tinsmith.server.state.records import Record, State, new_id
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import RecoveryPointRow
from tinsmith.server.store.journal.journal import Effect
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operations import Operation, SaveRecoveryPoint

log = logging.getLogger("tinsmith.server")


def usable(run: TrainingRun, point: RecoveryPoint, live: LiveState) -> bool:
    """Whether everything up to a point can be forgotten.

    Operations before it must be settled, and snapshots that were taken before it must be on disk: they could not be
    taken again from a later state.
    """
    if any(seq <= point.seq_id and record.state is State.PENDING for seq, record in run.ops.items()):
        return False
    for sampler_id in live.sessions[run.session_id].samplers:
        sampler = live.samplers[sampler_id]
        early = sampler.model_id == run.id and sampler.model_seq is not None and sampler.model_seq <= point.seq_id
        if early and not sampler.on_disk and sampler.damage is None:
            return False
    return True


def base(run: TrainingRun, live: LiveState) -> RecoveryPoint | None:
    """Return the newest point that a run can be rebuilt from; None means from its creation."""
    return next((point for point in reversed(run.points) if usable(run, point, live)), None)


class RecoveryPoints:
    """Takes recovery points and cuts the journal behind them."""

    def __init__(self, core: Core, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._live = core.live
        self._db = core.db
        self._futures = core.futures
        self._journal = core.journal
        self._data_folder = core.data_folder
        self._tasks = core.tasks
        self._interval_s = core.settings.recovery_interval_s

    def consider(self, record: Record) -> None:
        """Ask for a point after an optimizer step that was just handed over, if one is due."""
        run = self._live.runs.get(record.model_id or "")
        # Before the dispatcher is open the step has not been handed over, and a long replay asks for a point itself.
        if run is None or record.seq_id is None or not self._dispatcher.open:
            return
        if run.pointed_at is None or time.monotonic() - run.pointed_at >= self._interval_s:
            self.take(run, record.seq_id)

    def take(self, run: TrainingRun, after_seq: int) -> None:
        """Ask the engine for the state after an operation, or after a later one."""
        if run.pointless:
            return
        # When it is asked for, not when it is there: the next steps must not ask for more of them.
        run.pointed_at = time.monotonic()
        folder = self._data_folder.new_recovery(run.id, "point")
        work = SaveRecoveryPoint(str(self._data_folder.absolute(folder)), after_seq)
        op = Operation(new_id(), work, run.base_model, run.id, owner=run.owner)

        def failed(failure: Failure) -> None:
            log.warning("no recovery point of %s after %d: %s", run.id, after_seq, failure.message)
            self._tasks.start(self._data_folder.remove(folder))

        def given_up(reason: str) -> None:
            log.error("%s goes on without further recovery points: %s", run.id, reason)
            run.pointless = True
            self._tasks.start(self._data_folder.remove(folder))

        taken = lambda result: self._taken(run, folder, result)  # noqa: E731
        self._dispatcher.internal(op, Internal(op.kind, run.id, taken, failed, given_up))

    async def _taken(self, run: TrainingRun, folder: str, result: Result) -> None:
        point = RecoveryPoint(orjson.loads(result.payload)["seq_id"], folder)
        row = {"model_id": run.id, "seq_id": point.seq_id, "folder": folder, "created_at": time.time()}
        # The run ended while the engine was writing.
        if run.id not in self._live.runs:
            await self._data_folder.remove(folder)
            return
        await self._db.write(lambda connection: connection.execute(insert(RecoveryPointRow), row))
        run.points.append(point)
        await self.prune(run)

    async def prune(self, run: TrainingRun) -> None:
        """Forget what the newest usable point makes superfluous: older points, and bodies in the journal."""
        # Not while a host is being rebuilt: its replays read what would be cut. The next point comes back to it.
        if not self._dispatcher.open:
            return
        keep = base(run, self._live) if run.id in self._live.runs else None
        if keep is None:
            return
        older = run.points[: run.points.index(keep)]
        cut = [record for seq, record in run.ops.items() if seq <= keep.seq_id]
        creation = [run.creation] if run.creation is not None else []
        gone = [point.folder for point in older] + [
            folder for record in [*creation, *cut] if (folder := record.pinned_folder) is not None
        ]
        folders = [point.folder for point in older]
        effect: Effect = lambda connection: connection.execute(  # noqa: E731
            delete(RecoveryPointRow).where(RecoveryPointRow.folder.in_(folders))
        )
        run.points = [point for point in run.points if point not in older]
        for record in cut:
            del run.ops[record.seq_id or 0]
        self._futures.may_expire(cut)
        # Rows and bodies first, files last: a death in between leaves files without a row, never a row without files.
        if cut or older:
            await self._journal.cut(cut, [effect] if folders else [])
        for folder in gone:
            await self._data_folder.remove(folder)
