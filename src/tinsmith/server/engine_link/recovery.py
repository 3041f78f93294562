"""Rebuilding what an engine held: from each run's last recovery point, by replay in order.

`plan` says what to do for one run, without doing it; `Recovery` does it whenever an engine host comes up.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Coroutine
from dataclasses import dataclass

from tinsmith.server.engine_link.dispatcher import Dispatcher, Internal
from tinsmith.server.engine_link.outcomes import Outcomes
from tinsmith.server.engine_link.recovery_points import RecoveryPoints, base
from tinsmith.server.engine_link.suspects import Suspects
from tinsmith.server.state.live import LiveState, RecoveryPoint, RunStatus, TrainingRun
from tinsmith.server.state.records import Record, State, new_id
from tinsmith.server.store.core import Core
from tinsmith.server.store.journal.journal import patiently
from tinsmith.types.engine_messages.host_events import Failure, Lost
from tinsmith.types.engine_messages.operations import LoadState, Operation, OpKind
from tinsmith.types.errors import Damaged, RequestErrorCategory

log = logging.getLogger("tinsmith.server")

# After so many replayed operations a new recovery point is taken, so that the next loss costs less.
_LONG_REPLAY = 16


@dataclass(frozen=True, slots=True)
class Load:
    """Load a recovery point."""

    point: RecoveryPoint


@dataclass(frozen=True, slots=True)
class Replay:
    """Run an operation again whose outcome is recorded."""

    record: Record


@dataclass(frozen=True, slots=True)
class Resend:
    """Run an operation that has no outcome yet."""

    record: Record


@dataclass(frozen=True, slots=True)
class PassOver:
    """Take an operation's place in the order; it took no effect."""

    record: Record


Step = Load | Replay | Resend | PassOver


def plan(run: TrainingRun, live: LiveState) -> list[Step]:
    """Return the steps that rebuild a run and go on with it, in order.

    Places of operations that never came are left out: engines settle in order, so a replay tells them of those.
    """
    start = base(run, live)
    steps: list[Step] = []
    if start is not None:
        steps.append(Load(start))
    elif run.creation is not None:
        steps.append(Resend(run.creation) if run.creation.state is State.PENDING else Replay(run.creation))
    first = start.seq_id + 1 if start is not None else 1
    steps += [_step(record, live) for seq, record in sorted(run.ops.items()) if seq >= first]
    return steps


def _step(record: Record, live: LiveState) -> Step:
    if record.state is State.PENDING:
        return Resend(record)
    # A forward pass leaves nothing in the engine, and a save has left its files.
    if record.state is State.FAILED and record.damage is not None:
        return Replay(record)  # whether it took effect is not known, so it is refused there
    if record.state is State.FAILED or record.forward_only or record.kind in (OpKind.SAVE_STATE, OpKind.SAVE_SAMPLER):
        return PassOver(record)
    if record.kind is OpKind.SNAPSHOT:
        sampler = live.samplers.get(record.sampler_id or "")
        wanted = sampler is not None and not sampler.on_disk and sampler.damage is None
        return Replay(record) if wanted else PassOver(record)
    return Replay(record)


class Recovery:
    """Brings a new engine host to where the last one was."""

    def __init__(self, core: Core, dispatcher: Dispatcher, outcomes: Outcomes, recovery_points: RecoveryPoints) -> None:
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._recovery_points = recovery_points
        self._suspects = Suspects(dispatcher)
        self._tasks = core.tasks
        self._metrics = core.metrics
        self._live = core.live
        self._db = core.db
        self._futures = core.futures
        self._journal = core.journal
        self._catalog = core.catalog
        self._data_folder = core.data_folder
        self._tasks = core.tasks

    # -- after a loss -------------------------------------------------------------------------------------------------

    def lost(self, lost: Lost) -> None:
        """The host is gone: without a journal what it was doing has failed, with one it only waits."""
        if not self._journal.durable:
            for run in self._live.runs.values():
                if run.usable:
                    self._outcomes.end_run(run, RunStatus.CORRUPTED, lost.reason, RequestErrorCategory.SERVER)
            for record in self._futures.pending(lambda record: record.submitted_in > 0):
                self._outcomes.fail(record, f"the engine was lost: {lost.reason}", RequestErrorCategory.SERVER)
            return
        for given_up in self._suspects.lost(lost):
            self._give_up(given_up.what, given_up.message)

    def _give_up(self, what: Record | Internal, message: str) -> None:
        """Leave out what ended every engine that ran it, so that all else can go on."""
        if isinstance(what, Internal):
            self._metrics.given_up.labels(what.kind.value).inc()
            follow = what.given_up(message)
            if inspect.iscoroutine(follow):
                self._tasks.start(follow)
            return
        log.error("operation %s (%s): %s", what.request_id, what.kind, message)
        self._metrics.given_up.labels(what.kind.value).inc()
        if what.state is State.PENDING:
            self._outcomes.fail(what, message, RequestErrorCategory.SERVER)
            self._metrics.operations.labels(what.kind.value, what.state.value).inc()
        elif what.kind is OpKind.SNAPSHOT:
            # It was taken, but cannot be written, or not be taken again.
            if (sampler := self._live.samplers.get(what.sampler_id or "")) is not None:
                sampler.damage = f"it cannot be kept: {message}"
        elif (run := self._live.runs.get(what.model_id or "")) is not None and run.usable:
            # It is part of what the run has become.
            self._tasks.start(self._not_rebuilt(run, message))

    def cleared(self, what: Record | Internal) -> None:
        """An operation has an outcome, so that earlier losses are not held against it any more."""
        self._suspects.clear(what)

    # -- when a host is up --------------------------------------------------------------------------------------------

    async def rebuild(self, life: int) -> bool:
        """Rebuild everything in a host's life and open the way for new operations; False if it was lost meanwhile."""
        if life != self._dispatcher.life:
            return False
        for run in list(self._live.runs.values()):
            if run.usable and run.id in self._live.runs:
                await self._rebuild_run(run, life)
            if life != self._dispatcher.life:
                return False
        # Again until none is left, because others come in meanwhile. The last look and `open` have no await between
        # them: whatever comes later is handed over by whoever accepts it.
        while rest := self._unsent():
            for record in rest:
                await self._send(record)
                if life != self._dispatcher.life:
                    return False
        self._dispatcher.open = True
        return True

    def _unsent(self) -> list[Record]:
        life = self._dispatcher.life
        held = {record for sampler in self._live.samplers.values() for record in sampler.held}
        # Left out: what is still being stored (`Intake` submits it) and what waits for its sampler (which hands it
        # over).
        pending = self._futures.pending(lambda r: r.accepted.is_set() and r.submitted_in != life and r not in held)
        return pending + [
            record
            for run in self._live.runs.values()
            for record in run.ops.values()
            if record.at_door and record.accepted.is_set() and record.submitted_in != life
        ]

    async def _send(self, record: Record) -> None:
        try:
            await patiently(lambda: self._dispatcher.send(record))
        except Damaged as error:
            self._outcomes.fail(record, str(error), RequestErrorCategory.SERVER)

    async def _rebuild_run(self, run: TrainingRun, life: int) -> None:
        if run.base_model not in self._catalog.loaded:
            # Not stored: a later start may serve it again.
            reason = f"base model {run.base_model!r} is not served since the last start"
            self._outcomes.end_run(run, RunStatus.CORRUPTED, reason, RequestErrorCategory.SERVER)
            self._dispatcher.lose_snapshots(run.id, reason)
            return
        if (reason := self._catalog.other_weights(run.base_model, run.base_weights)) is not None:
            # Not stored either: the weights that it began with may come back.
            advice = f"{reason}; restart the service with the weights that the run began with"
            self._outcomes.end_run(run, RunStatus.CORRUPTED, advice, RequestErrorCategory.SERVER)
            self._dispatcher.lose_snapshots(run.id, advice)
            return
        steps = plan(run, self._live)
        try:
            for step in steps:
                await self._take(run, step)
                if life != self._dispatcher.life:
                    return
        except Damaged as error:
            await self._not_rebuilt(run, str(error))
            return
        if run.id not in self._live.runs:
            self._dispatcher.release_model(run)  # its session ended meanwhile
            return
        replayed = [s.record for s in steps if isinstance(s, Replay) and s.record.seq_id is not None]
        # Only after an optimizer step are there no gradients, which a saved state would not hold.
        steps_done = [r.seq_id for r in replayed if r.kind is OpKind.OPTIM_STEP and r.seq_id is not None]
        if len(replayed) >= _LONG_REPLAY and steps_done:
            self._recovery_points.take(run, max(steps_done))
        if steps:
            log.info("rebuilding %s: %d steps, %d of them replays", run.id, len(steps), len(replayed))

    async def _take(self, run: TrainingRun, step: Step) -> None:
        match step:
            case Load(point):
                self._load(run, point)
            case Replay(record):
                await patiently(lambda: self._dispatcher.replay(record))
            case Resend(record):
                await patiently(lambda: self._dispatcher.resend(record))
            case PassOver(record):
                self._dispatcher.skip(record)

    def _load(self, run: TrainingRun, point: RecoveryPoint) -> None:
        folder = str(self._data_folder.absolute(point.folder))
        work = LoadState(folder, optimizer=True, lora=run.lora, next_seq=point.seq_id + 1)
        op = Operation(new_id(), work, run.base_model, run.id, owner=run.owner)
        follow = Internal(
            op.kind,
            run.id,
            done=lambda _: None,
            failed=lambda failure: self._not_rebuilt(run, failure.message),
            given_up=lambda reason: self._not_rebuilt(run, reason),
        )
        self._dispatcher.internal(op, follow)

    def _not_rebuilt(self, run: TrainingRun, reason: str) -> Coroutine[None, None, None]:
        return self._abandon(run, f"it could not be rebuilt after a restart: {reason}")

    async def replay_failed(self, record: Record, failure: Failure) -> None:
        """An operation that had succeeded failed when it was run again: the run is not what it was."""
        run = self._live.runs.get(record.model_id or "")
        if run is not None and run.usable:
            await self._not_rebuilt(run, failure.message)

    async def _abandon(self, run: TrainingRun, message: str) -> None:
        log.error("training run %s: %s", run.id, message)
        advice = f"{message}; create a new client from its last checkpoint"
        # Only this run: the others have been or will be rebuilt.
        effect = self._outcomes.end_run(run, RunStatus.CORRUPTED, advice, RequestErrorCategory.SERVER)
        if run.creation is not None:
            self._outcomes.fail(run.creation, advice, RequestErrorCategory.SERVER)
        # Beside it: the other runs need not wait for this.
        self._tasks.start(self._db.write_until_stored(effect))
        self._dispatcher.lose_snapshots(run.id, f"model {run.id}: {message}")
        self._dispatcher.release_model(run)
