"""All work for one engine: takes operations in, and offers owners turns of three kinds, which the host shares out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Protocol

from tinsmith.engine.sharing import PassShare, Turn
from tinsmith.scheduler.barriers import AdapterEngine, clear_step, encode, run_barrier
from tinsmith.scheduler.exactly_once import ExactlyOnce
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.flusher import Flush, SnapshotWriter
from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.scheduler.passes import Passes, TrainingEngine
from tinsmith.scheduler.ready_models import ReadyModels
from tinsmith.scheduler.samples.known_samplers import KnownSamplers
from tinsmith.scheduler.samples.sample_queue import SampleQueue, SamplingEngine
from tinsmith.scheduler.samples.sampler_operations import SamplerEngine, SamplerOperations
from tinsmith.scheduler.shares.costs import Costs
from tinsmith.scheduler.shares.fairness import OwnedShare
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.operations import (
    LoadSampler,
    Operation,
    OpKind,
    ReleaseModel,
    ReleaseSampler,
    Sample,
    SaveRecoveryPoint,
    TakeSnapshot,
)
from tinsmith.types.errors import UserError
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.names.http_names import PROTOBUF

# How long work waits for a model or sampler that nobody has announced. Requests may overtake each other, but by a round
# trip, not by minutes, so an id that is still unknown then is most likely wrong and its client should hear of it.
PATIENCE_S = 30.0


class HostedEngine(TrainingEngine, AdapterEngine, SamplerEngine, SamplingEngine, Protocol):
    """An engine, as far as the scheduler knows it."""

    @property
    def info(self) -> BaseModelInfo: ...
    def write_snapshot(self, sampler_id: str, folder: str, /) -> int: ...
    def figures(self) -> dict[str, float]: ...


class Lane(StrEnum):
    """The kinds of turns: a packed pass, one other operation of a model or sampler, one step of the sampler."""

    PASS = "pass"
    BARRIER = "barrier"
    SAMPLE = "sample"


class EngineScheduler:
    """The queues of one engine.

    Args:
        engine: only the host's thread calls it, but for `write_snapshot`.
        settings: limits and timeouts.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: HostedEngine,
        exactly_once: ExactlyOnce,
        flusher: SnapshotWriter,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._exactly_once = exactly_once
        self._flusher = flusher
        self._gap_timeout_s = settings.gap_timeout_s
        self._patience_s = min(PATIENCE_S, settings.gap_timeout_s)
        self._clock = clock
        self.queues: dict[str, ModelQueue] = {}
        self.known_samplers = known = KnownSamplers()
        self.passes = Passes(engine, exactly_once.begin)
        self.sample_queue = SampleQueue(engine, known, exactly_once, settings.max_decode_batch, self._patience_s)
        self._sampler_operations = SamplerOperations(engine, known, self.sample_queue, flusher, exactly_once)
        self._fair_barriers: OwnedShare[str] = OwnedShare()
        self._ready = ReadyModels()
        self._costs = Costs()

    def figures(self) -> dict[str, float]:
        """Return what metrics show of the engine."""
        return self._engine.figures()

    # -- operations in ------------------------------------------------------------------------------------------------

    def accept(self, op: Operation) -> None:
        """Take an operation that is new."""
        now = self._clock()
        match op.work:
            case Sample(sampler_id):
                self.sample_queue.offer(op, sampler_id, now)
            case LoadSampler() | ReleaseSampler() as work:
                self._sampler_operations.accept(op, work)
            case _:
                self._accept_model_op(op, now)

    def _accept_model_op(self, op: Operation, now: float) -> None:
        if op.model_id is None:
            self._exactly_once.refuse(op, f"model_id: got None, expected the model that {op.kind} is for")
            return
        # A queue is made by whatever comes first: the creation may have been overtaken.
        queue = self.queues.setdefault(op.model_id, ModelQueue(op.model_id, now))
        refusal = queue.offer(op, now)
        if refusal is not None:
            self._exactly_once.refuse(op, refusal)
        elif isinstance(op.work, TakeSnapshot):
            # From now on samples may wait for it, however long the steps before it take.
            self.known_samplers.expect(op.work.sampler_id)
        self._ready.note(queue)

    def cancel(self, request_id: str) -> None:
        """Drop a sample that is not finished; other operations are not cancelled."""
        op = self.sample_queue.cancel(request_id)
        if op is not None:
            self._exactly_once.refuse(op, "the request was cancelled")

    # -- turns --------------------------------------------------------------------------------------------------------

    def ready(self) -> dict[str, list[Lane]]:
        """Return the owners for whom a turn would do something now, and the kinds of it."""
        lanes: dict[str, list[Lane]] = {}
        for owner in self._ready.passes:
            lanes.setdefault(owner, []).append(Lane.PASS)
        # Not a set: among equals the first has its turn, and who is first must not change from process to process.
        for owner in dict.fromkeys((*self._ready.barriers, *self._sampler_operations.ready().values())):
            lanes.setdefault(owner, []).append(Lane.BARRIER)
        for owner in self.sample_queue.owners():
            lanes.setdefault(owner, []).append(Lane.SAMPLE)
        return lanes

    def turn(self, lane: Lane, turn: Turn) -> dict[str, float]:
        """Take one turn of an owner, which others may have a part in.

        Args:
            lane: what kind.
            turn: whose turn it is, and the accounts of all.

        Returns:
            the part of the turn's time that each owner pays, 1 in all; nothing where nothing could be done.
        """
        assert turn.leader is not None
        if lane is Lane.BARRIER:
            self._barrier(turn.leader)
            return {turn.leader: 1.0}
        started = self._clock()
        turn = replace(turn, costs=self._costs.all())
        share = self._pass(turn) if lane is Lane.PASS else self.sample_queue.turn(turn)
        if share is None or not share.taken:
            return {}
        self._costs.learn(share.kind, share.taken, self._clock() - started)
        return share.parts()

    def _pass(self, turn: Turn) -> PassShare:
        queues = [queue for queues in self._ready.passes.values() for queue in queues.values()]
        done, share = self.passes.turn(queues, turn)
        for queue, task in done:
            try:
                payload = task.payload()
            except Exception as error:
                self._fail(queue, task.op, error, leaves_gradients=task.backward)
            else:
                self._exactly_once.result(task.op, payload, PROTOBUF)
                queue.done(task.op, self._clock())
        for queue in queues:
            self._ready.note(queue)
        return share

    def _barriers(self, owner: str) -> dict[str, Callable[[], bool]]:
        """Return what runs the first operation of each of an owner's models and samplers, by its kind and id.

        Each returns whether its owner asked for it.
        """
        found: dict[str, Callable[[], bool]] = {}
        for model_id, queue in self._ready.barriers.get(owner, {}).items():
            found[f"model {model_id}"] = partial(self._run_model_op, queue)
        for sampler_id, whose in self._sampler_operations.ready().items():
            if whose == owner:
                found[f"sampler {sampler_id}"] = partial(self._run_sampler_op, sampler_id)
        return found

    def _barrier(self, owner: str) -> None:
        ready = self._barriers(owner)
        self._fair_barriers.activate(dict.fromkeys(ready, owner))
        key = self._fair_barriers.least(ready)
        # Charged by time, not by number: writing one large state takes as long as many optimizer steps. But not for
        # what the service wants for itself: after a recovery point a run would wait until each of its owner's other
        # runs had as much time, which with hundreds of runs is minutes.
        started = self._clock()
        if ready[key]():
            self._fair_barriers.charge(key, self._clock() - started)

    # -- operations of models -----------------------------------------------------------------------------------------

    def _run_model_op(self, queue: ModelQueue) -> bool:
        op = queue.ready_barrier()
        assert op is not None
        self._run(queue, op)
        self._ready.note(queue)
        return not isinstance(op.work, SaveRecoveryPoint)

    def _run_sampler_op(self, sampler_id: str) -> bool:
        self._sampler_operations.run(sampler_id)
        return True

    def _run(self, queue: ModelQueue, op: Operation) -> None:
        self._exactly_once.begin((op.request_id,))
        if isinstance(op.work, ReleaseModel):
            self._release_model(queue, op)
            return
        try:
            # A replay may meet a snapshot that was loaded from disk meanwhile; an id stands for the same weights.
            known = isinstance(op.work, TakeSnapshot) and self.known_samplers.is_usable(op.work.sampler_id)
            result = {} if known else run_barrier(self._engine, queue, op)
        except Exception as error:
            raise_if_fatal(error)
            self._fail(queue, op, error)
            if not queue.alive:
                why = f"model_id: got {queue.model_id!r}, but the model could not be made: {error}"
                self._abandon(queue, UserError(why) if isinstance(error, UserError) else RuntimeError(why))
            return
        self._exactly_once.result(op, encode(result))
        queue.done(op, self._clock())
        if isinstance(op.work, TakeSnapshot):
            self._snapshot_made(op, op.work)

    def _snapshot_made(self, op: Operation, snapshot: TakeSnapshot) -> None:
        sampler_id, folder = snapshot.sampler_id, snapshot.folder
        self.known_samplers.made(sampler_id)
        if self._sampler_operations.will_release(sampler_id):
            # It was closed while it was still to be made; it is written to disk all the same, and then released.
            self.known_samplers.retire(sampler_id)
        write = self._engine.write_snapshot
        flush = Flush(op.request_id, sampler_id, folder, lambda: write(sampler_id, folder))
        if op.company is None:
            self._flusher.add(flush)
        else:
            self._flusher.write_now(flush)

    def _fail(self, queue: ModelQueue, op: Operation, error: Exception, leaves_gradients: bool = True) -> None:
        """Answer an operation of a model with an error, and keep what that means for those after it."""
        if op.kind is OpKind.FORWARD_BACKWARD and leaves_gradients:
            # Before its place is settled: what is missing behind it is a later reason, and the first one counts.
            queue.step_fails(f"forward_backward with seq_id {op.seq_id} failed: {error}")
        elif isinstance(op.work, TakeSnapshot):
            self.known_samplers.broke(op.work.sampler_id, f"sampler {op.work.sampler_id} could not be made: {error}")
        queue.done(op, self._clock())
        self._exactly_once.failure(op, error)

    def _release_model(self, queue: ModelQueue, op: Operation) -> None:
        if queue.alive:
            self._engine.remove_model(queue.model_id)
        queue.done(op, self._clock())
        self._exactly_once.result(op)
        self._abandon(queue, UserError(f"model_id: got {queue.model_id!r}, but the model was released"))

    def _abandon(self, queue: ModelQueue, error: Exception) -> None:
        """Forget a model that does not exist (any more); what waits for it fails."""
        del self.queues[queue.model_id]
        self.passes.forget(queue.model_id)
        for op in queue.everything():
            self._fail(queue, op, error)
        self._ready.note(queue)

    # -- time ---------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Fail what has waited too long for something that never came."""
        now = self._clock()
        for op, why in self.sample_queue.waiting.drop_hopeless(now):
            self._exactly_once.refuse(op, why)
        for queue in list(self.queues.values()):
            since = queue.blocked_since
            if since is not None and now >= since + self._timeout(queue):
                self._give_up(queue)

    def _timeout(self, queue: ModelQueue) -> float:
        return self._gap_timeout_s if queue.alive else self._patience_s

    def _give_up(self, queue: ModelQueue) -> None:
        """Fail everything behind the gap; the next step, which may lack gradients, fails too."""
        if not queue.alive:
            self._abandon(queue, UserError(queue.missing))
            return
        why = f"{queue.missing} within {self._gap_timeout_s:g} s; the operations after it were not run"
        queue.step_fails(why)
        for op in queue.ordered():
            self._fail(queue, op, UserError(why))
            if op.kind is OpKind.OPTIM_STEP:
                # It was the step that had to fail; the next one begins with clean gradients.
                clear_step(self._engine, queue)
        self._ready.note(queue)

    def next_deadline(self) -> float | None:
        """Return when `expire` may next have something to do, None where time alone changes nothing."""
        deadlines = [
            queue.blocked_since + self._timeout(queue)
            for queue in self.queues.values()
            if queue.blocked_since is not None
        ]
        samples = self.sample_queue.waiting.next_deadline()
        return min([*deadlines, *([] if samples is None else [samples])], default=None)
