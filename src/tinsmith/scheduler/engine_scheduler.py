"""All work for one engine: takes operations in, and offers turns of three kinds that the host shares out by time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Protocol

from tinsmith.scheduler.barriers import AdapterEngine, clear_step, encode, run_barrier
from tinsmith.scheduler.exactly_once import PROTOBUF, Answers
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.fairness import FairShare
from tinsmith.scheduler.flusher import Flush, Flusher
from tinsmith.scheduler.known_samplers import KnownSamplers
from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.scheduler.passes import Passes, TrainingEngine
from tinsmith.scheduler.sample_queue import SampleQueue, SamplingEngine
from tinsmith.settings import Settings
from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.errors import UserError
from tinsmith.types.operations import LoadSampler, Operation, OpKind, ReleaseModel, ReleaseSampler, Sample, Snapshot

# How long work waits for a model or sampler that nobody has announced.
PATIENCE_S = 30.0

SamplerWork = LoadSampler | ReleaseSampler


class HostedEngine(TrainingEngine, AdapterEngine, SamplingEngine, Protocol):
    """An engine, as far as the scheduler knows it."""

    @property
    def info(self) -> BaseModelInfo: ...
    def write_snapshot(self, sampler_id: str, folder: str, /) -> int: ...
    def load_sampler(self, sampler_id: str, folder: str | None, /) -> object: ...
    def release_sampler(self, sampler_id: str, /) -> object: ...


class Lane(StrEnum):
    """The kinds of turns: a packed pass, one other operation of a model or sampler, one step of the sampler."""

    PASS = "pass"
    BARRIER = "barrier"
    SAMPLE = "sample"


class EngineScheduler:
    """The queues of one engine.

    Args:
        engine: the engine; only the host's thread calls it, but for `write_snapshot`.
        answers: where outcomes go.
        flusher: writes snapshots in the background.
        settings: limits and timeouts.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: HostedEngine,
        answers: Answers,
        flusher: Flusher,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._answers = answers
        self._flusher = flusher
        self._gap_timeout_s = settings.gap_timeout_s
        self._patience_s = min(PATIENCE_S, settings.gap_timeout_s)
        self._clock = clock
        self.queues: dict[str, ModelQueue] = {}
        self.samplers = KnownSamplers()
        self.training = Passes(engine)
        self.sampling = SampleQueue(engine, self.samplers, answers, settings.max_decode_batch, self._patience_s)
        self._sampler_ops: dict[str, deque[Operation]] = {}
        self._barriers: FairShare[str] = FairShare()

    # -- operations in ------------------------------------------------------------------------------------------------

    def accept(self, op: Operation) -> None:
        """Take an operation that is new."""
        now = self._clock()
        match op.work:
            case Sample(sampler_id):
                self.sampling.offer(op, sampler_id, now)
            case LoadSampler() | ReleaseSampler() as work:
                self._accept_sampler_op(op, work)
            case _:
                self._accept_model_op(op, now)

    def _accept_sampler_op(self, op: Operation, work: SamplerWork) -> None:
        sampler_id = work.sampler_id
        if isinstance(work, LoadSampler):
            self.samplers.expect(sampler_id)
        else:
            self._flusher.unwanted(sampler_id)
            self._refuse_samples(sampler_id, self.sampling.drop_sampler(sampler_id))
            self.samplers.retire(sampler_id)
        self._sampler_ops.setdefault(sampler_id, deque()).append(op)

    def _accept_model_op(self, op: Operation, now: float) -> None:
        if op.model_id is None:
            self._answers.refuse(op, f"model_id: got None, expected the model that {op.kind} is for")
            return
        queue = self.queues.setdefault(op.model_id, ModelQueue(op.model_id, now))
        refusal = queue.offer(op, now)
        if refusal is not None:
            self._answers.refuse(op, refusal)
        elif isinstance(op.work, Snapshot):
            self.samplers.expect(op.work.sampler_id)

    def cancel(self, request_id: str) -> None:
        """Drop a sample that is not finished; other operations are not cancelled."""
        op = self.sampling.cancel(request_id)
        if op is not None:
            self._answers.refuse(op, "the request was cancelled")

    # -- turns --------------------------------------------------------------------------------------------------------

    def ready(self) -> list[Lane]:
        """Return the kinds of turns that would do something now."""
        lanes = {
            Lane.PASS: any(queue.passes() for queue in self.queues.values()),
            Lane.BARRIER: bool(self._ready_barriers()),
            Lane.SAMPLE: self.sampling.has_work,
        }
        return [lane for lane, has_work in lanes.items() if has_work]

    def turn(self, lane: Lane) -> None:
        """Take one turn."""
        {Lane.PASS: self._pass, Lane.BARRIER: self._barrier, Lane.SAMPLE: self.sampling.turn}[lane]()

    def _pass(self) -> None:
        for queue, task in self.training.turn([q for q in self.queues.values() if q.passes()]):
            try:
                payload = task.payload()
            except Exception as error:
                self._fail(queue, task.op, error, leaves_gradients=task.backward)
            else:
                self._answers.result(task.op, payload, PROTOBUF)
                queue.done(task.op, self._clock())

    def _ready_barriers(self) -> dict[str, Operation]:
        """Return the first operation of each model and sampler that can run now, by `model ID` or `sampler ID`."""
        found: dict[str, Operation] = {}
        for model_id, queue in self.queues.items():
            if (op := queue.barrier()) is not None:
                found[f"model {model_id}"] = op
        for sampler_id, ops in self._sampler_ops.items():
            if isinstance(ops[0].work, LoadSampler) or not self._is_held(sampler_id, ops):
                found[f"sampler {sampler_id}"] = ops[0]
        return found

    def _is_held(self, sampler_id: str, ops: Iterable[Operation]) -> bool:
        """Whether a release has to wait: a snapshot of the sampler is still to be made, or being written to disk."""
        loads = sum(isinstance(op.work, LoadSampler) for op in ops)
        return self._flusher.holds(sampler_id) or self.samplers.coming(sampler_id) > loads

    def _barrier(self) -> None:
        ready = self._ready_barriers()
        key = self._barriers.pick(ready)
        if key is None:
            return
        started = self._clock()
        op = ready[key]
        match op.work:
            case LoadSampler() | ReleaseSampler() as work:
                self._run_sampler_op(op, work)
            case ReleaseModel():
                self._release_model(self.queues[op.model_id or ""], op)
            case _:
                self._run_model_op(self.queues[op.model_id or ""], op)
        self._barriers.charge(key, self._clock() - started)

    # -- operations of models -----------------------------------------------------------------------------------------

    def _run_model_op(self, queue: ModelQueue, op: Operation) -> None:
        try:
            known = isinstance(op.work, Snapshot) and self.samplers.is_usable(op.work.sampler_id)
            result = {} if known else run_barrier(self._engine, queue, op)
        except Exception as error:
            raise_if_fatal(error)
            self._fail(queue, op, error)
            if not queue.alive:
                why = f"model_id: got {queue.model_id!r}, but the model could not be made: {error}"
                self._abandon(queue, UserError(why) if isinstance(error, UserError) else RuntimeError(why))
            return
        self._answers.result(op, encode(result))
        queue.done(op, self._clock())
        if isinstance(op.work, Snapshot):
            self._snapshot_made(op.request_id, op.work)

    def _snapshot_made(self, request_id: str, snapshot: Snapshot) -> None:
        sampler_id, folder = snapshot.sampler_id, snapshot.folder
        self.samplers.made(sampler_id)
        if any(isinstance(waiting.work, ReleaseSampler) for waiting in self._sampler_ops.get(sampler_id, ())):
            self.samplers.retire(sampler_id)
        write = self._engine.write_snapshot
        self._flusher.add(Flush(request_id, sampler_id, folder, lambda: write(sampler_id, folder)))

    def _fail(self, queue: ModelQueue, op: Operation, error: Exception, leaves_gradients: bool = True) -> None:
        """Answer an operation of a model with an error, and keep what that means for those after it."""
        queue.done(op, self._clock())
        self._answers.failure(op, error)
        if op.kind is OpKind.FORWARD_BACKWARD and leaves_gradients:
            queue.step_fails(f"forward_backward with seq_id {op.seq_id} failed: {error}")
        elif isinstance(op.work, Snapshot):
            self.samplers.broke(op.work.sampler_id, f"sampler {op.work.sampler_id} could not be made: {error}")

    def _release_model(self, queue: ModelQueue, op: Operation) -> None:
        if queue.alive:
            self._engine.remove_model(queue.model_id)
        queue.done(op, self._clock())
        self._answers.result(op)
        self._abandon(queue, UserError(f"model_id: got {queue.model_id!r}, but the model was released"))

    def _abandon(self, queue: ModelQueue, error: Exception) -> None:
        """Forget a model that does not exist (any more); what waits for it fails."""
        del self.queues[queue.model_id]
        self.training.forget(queue.model_id)
        for op in queue.everything():
            self._fail(queue, op, error)

    # -- operations of samplers ---------------------------------------------------------------------------------------

    def _run_sampler_op(self, op: Operation, work: SamplerWork) -> None:
        sampler_id = work.sampler_id
        ops = self._sampler_ops[sampler_id]
        ops.popleft()
        if not ops:
            del self._sampler_ops[sampler_id]
        try:
            if isinstance(work, LoadSampler):
                self._load_sampler(work)
            else:
                self._release_sampler(work.sampler_id)
        except Exception as error:
            raise_if_fatal(error)
            self._answers.failure(op, error)
            if isinstance(work, LoadSampler):
                self.samplers.broke(sampler_id, f"sampler {sampler_id} could not be loaded: {error}")
        else:
            self._answers.result(op)

    def _load_sampler(self, load: LoadSampler) -> None:
        if not self.samplers.is_usable(load.sampler_id):
            self._engine.load_sampler(load.sampler_id, load.folder)
        self.samplers.made(load.sampler_id)

    def _release_sampler(self, sampler_id: str) -> None:
        self._refuse_samples(sampler_id, self.sampling.drop_sampler(sampler_id, only_running=True))
        if self.samplers.gone(sampler_id):
            self._engine.release_sampler(sampler_id)

    def _refuse_samples(self, sampler_id: str, samples: Iterable[Operation]) -> None:
        for sample in samples:
            self._answers.refuse(sample, f"sampler {sampler_id} was released")

    # -- time ---------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Fail what has waited too long for something that never came."""
        now = self._clock()
        for op, why in self.sampling.hopeless(now):
            self._answers.refuse(op, why)
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
                clear_step(self._engine, queue)

    def next_deadline(self) -> float | None:
        """Return when `expire` may next have something to do, None where time alone changes nothing."""
        deadlines = [
            queue.blocked_since + self._timeout(queue)
            for queue in self.queues.values()
            if queue.blocked_since is not None
        ]
        sampling = self.sampling.next_deadline()
        return min([*deadlines, *([] if sampling is None else [sampling])], default=None)
