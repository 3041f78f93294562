"""Loads and releases of samplers: in the order of their arrival per sampler, and what they wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from tinsmith.scheduler.exactly_once import ExactlyOnce
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.flusher import SnapshotWriter
from tinsmith.scheduler.samples.known_samplers import KnownSamplers
from tinsmith.scheduler.samples.sample_queue import SampleQueue
from tinsmith.types.engine_messages.operations import LoadSampler, Operation, ReleaseSampler


class SamplerEngine(Protocol):
    """What these operations need of an engine; every call is complete when it returns."""

    def load_sampler(self, sampler_id: str, folder: str | None, /) -> object: ...
    def release_sampler(self, sampler_id: str, /) -> object: ...


class SamplerOperations:
    """The loads and releases of one engine that are still to be run.

    Args:
        known_samplers: learns what comes and goes.
        sample_queue: the samples that a release refuses.
        flusher: may still be writing a sampler that is to be released.
    """

    def __init__(
        self,
        engine: SamplerEngine,
        known_samplers: KnownSamplers,
        sample_queue: SampleQueue,
        flusher: SnapshotWriter,
        exactly_once: ExactlyOnce,
    ) -> None:
        self._engine = engine
        self._known_samplers = known_samplers
        self._sample_queue = sample_queue
        self._flusher = flusher
        self._exactly_once = exactly_once
        self._waiting: dict[str, deque[tuple[Operation, LoadSampler | ReleaseSampler]]] = {}

    def accept(self, op: Operation, work: LoadSampler | ReleaseSampler) -> None:
        """Take an operation that is new; a release shows at once, so that no sample begins that it would cut short."""
        match work:
            case LoadSampler(sampler_id):
                self._known_samplers.expect(sampler_id)
            case ReleaseSampler(sampler_id):
                self._flusher.abandon(sampler_id)
                self._refuse(sampler_id, self._sample_queue.drop_sampler(sampler_id))
                self._known_samplers.retire(sampler_id)
        self._waiting.setdefault(sampler_id, deque()).append((op, work))

    def ready(self) -> dict[str, str]:
        """Return the samplers whose first operation can run now, each with whose it is."""
        return {s: waiting[0][0].owner for s, waiting in self._waiting.items() if not self._must_wait(s)}

    def _must_wait(self, sampler_id: str) -> bool:
        """Whether a release comes first and a snapshot of the sampler is still to be made, or being written to disk."""
        works = [work for _, work in self._waiting[sampler_id]]
        if isinstance(works[0], LoadSampler):
            return False
        # What is expected beyond the loads that wait here are snapshots, which wait in their models' queues.
        loads = sum(isinstance(work, LoadSampler) for work in works)
        return self._flusher.holds(sampler_id) or self._known_samplers.coming(sampler_id) > loads

    def will_release(self, sampler_id: str) -> bool:
        """Whether a release of the sampler waits."""
        return any(isinstance(work, ReleaseSampler) for _, work in self._waiting.get(sampler_id, ()))

    def run(self, sampler_id: str) -> None:
        """Run the first operation of a sampler and answer it."""
        waiting = self._waiting[sampler_id]
        op, work = waiting.popleft()
        if not waiting:
            del self._waiting[sampler_id]
        self._exactly_once.begin((op.request_id,))
        try:
            if isinstance(work, LoadSampler):
                self._load(work)
            else:
                self._release(sampler_id)
        except Exception as error:
            raise_if_fatal(error)
            self._exactly_once.failure(op, error)
            if isinstance(work, LoadSampler):
                self._known_samplers.broke(sampler_id, f"sampler {sampler_id} could not be loaded: {error}")
        else:
            self._exactly_once.result(op)

    def _load(self, load: LoadSampler) -> None:
        # An id stands for the same weights for ever, so what is there need not be loaded again.
        if not self._known_samplers.is_usable(load.sampler_id):
            self._engine.load_sampler(load.sampler_id, load.folder)
        self._known_samplers.made(load.sampler_id)

    def _release(self, sampler_id: str) -> None:
        # Those that wait in the queue are kept: a load behind this release may be for them.
        self._refuse(sampler_id, self._sample_queue.drop_sampler(sampler_id, only_running=True))
        held = self._known_samplers.is_held(sampler_id)
        self._known_samplers.gone(sampler_id)
        if held:
            self._engine.release_sampler(sampler_id)

    def _refuse(self, sampler_id: str, samples: Iterable[Operation]) -> None:
        for sample in samples:
            self._exactly_once.refuse(sample, f"sampler {sampler_id} was released")
