"""Sampling requests of one engine: who gets into the running batch, in which order, and what comes out.

The engine's sampler runs a batch that requests join and leave; beyond a small backlog they wait here, where the
samplers take turns, so that one tenant's flood does not stand in front of another's request.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from tinsmith.engine.jobs import SampleJob
from tinsmith.scheduler.exactly_once import Answers
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.fairness import FairShare
from tinsmith.scheduler.known_samplers import KnownSamplers
from tinsmith.types.codec import encode_sample_response
from tinsmith.types.errors import UserError
from tinsmith.types.http_names import PROTOBUF
from tinsmith.types.operations import Operation
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.requests import SampleRequest
from tinsmith.types.sample_inputs import read_sample_inputs

logger = logging.getLogger(__name__)


class BatchSampler(Protocol):
    """What sampling needs of an engine."""

    @property
    def has_work(self) -> bool: ...
    def add(self, job: SampleJob, /) -> object: ...
    def cancel(self, job_id: str, /) -> object: ...
    def step(self) -> Iterable[tuple[str, SampleResponse | Exception]]: ...


@dataclass(frozen=True, slots=True)
class _Queued:
    op: Operation
    since: float


@dataclass(frozen=True, slots=True)
class _Running:
    op: Operation
    since: float
    sequences: int


class SamplingEngine(Protocol):
    """An engine as far as sampling knows it; the sampler, and its cache, may be made when first asked for."""

    @property
    def sampler(self) -> BatchSampler: ...


class SampleQueue:
    """Waiting and running samples of one engine.

    A step that fails as a whole is no fault of most requests in it. They begin again, half as many at once, down to
    one, which fails alone if it fails again; each request that ends well lets in one more. What a request draws does
    not depend on when it runs, so beginning again changes no result.

    Args:
        engine: has the sampler.
        samplers: which ids can be sampled from.
        answers: where outcomes go.
        max_batch: sequences that the engine decodes at once; twice as many are handed to it.
        patience_s: how long a sample waits for a sampler that nobody has announced.
    """

    def __init__(
        self, engine: SamplingEngine, samplers: KnownSamplers, answers: Answers, max_batch: int, patience_s: float
    ) -> None:
        self._engine = engine
        self._samplers = samplers
        self._answers = answers
        self._room = 2 * max_batch
        self._patience_s = patience_s
        self._fair: FairShare[str] = FairShare()
        self._queued: dict[str, OrderedDict[str, _Queued]] = {}
        self._running: dict[str, _Running] = {}
        self._sequences = 0
        self._limit: int | None = None
        self.tokens = 0

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._queued.values()))

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether a turn would do something."""
        return bool(self._running) or any(map(self._samplers.is_usable, self._queued))

    def offer(self, op: Operation, now: float) -> None:
        """Take a SAMPLE operation."""
        self._queued.setdefault(op.args["sampler_id"], OrderedDict())[op.op_id] = _Queued(op, now)

    def turn(self) -> None:
        """Let requests in and run one step of the engine's sampler."""
        self._admit()
        if not self._running:
            return
        alone = len(self._running) == 1
        try:
            finished = list(self._engine.sampler.step())
        except Exception as error:
            raise_if_fatal(error)
            finished = [(job_id, error) for job_id in self._running]
            for job_id in self._running:
                self._engine.sampler.cancel(job_id)
        for _, outcome in finished:
            if isinstance(outcome, Exception):
                raise_if_fatal(outcome)
        if not alone:
            self._begin_again([job_id for job_id, outcome in finished if _is_fault_of_the_step(outcome)])
        for job_id, outcome in finished:
            if job_id in self._running:
                self._finish(job_id, outcome)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self._sequences < self._room and (self._limit is None or len(self._running) < self._limit):
            sampler_id = self._fair.pick([s for s in self._queued if self._samplers.is_usable(s)])
            if sampler_id is None:
                return
            waiting = self._queued[sampler_id]
            _, queued = waiting.popitem(last=False)
            if not waiting:
                del self._queued[sampler_id]
            self._fair.charge(sampler_id, self._start(queued))

    def _start(self, queued: _Queued) -> int:
        """Hand a request to the engine; return how many sequences it asks for, 0 where it was refused."""
        try:
            job = sample_job(queued.op)
            self._engine.sampler.add(job)
        except Exception as error:
            raise_if_fatal(error)
            self._answers.failure(queued.op, error)
            return 0
        self._running[queued.op.op_id] = _Running(queued.op, queued.since, job.num_samples)
        self._sequences += job.num_samples
        return job.num_samples

    # -- out ----------------------------------------------------------------------------------------------------------

    def _finish(self, job_id: str, outcome: SampleResponse | Exception) -> None:
        op = self._leave(job_id).op
        try:
            if isinstance(outcome, Exception):
                raise outcome
            payload = encode_sample_response(outcome)
        except Exception as error:
            self._answers.failure(op, error)
            return
        if self._limit is not None:
            self._limit += 1
        self.tokens += sum(len(sequence.tokens) for sequence in outcome.sequences)
        self._answers.result(op, payload, PROTOBUF)

    def _leave(self, job_id: str) -> _Running:
        running = self._running.pop(job_id)
        self._sequences -= running.sequences
        return running

    def _begin_again(self, job_ids: list[str]) -> None:
        if not job_ids:
            return
        logger.warning("a sampling step failed; %d requests begin again, half as many at once", len(job_ids))
        self._limit = max(1, len(self._running) // 2)
        for job_id in reversed(job_ids):
            running = self._leave(job_id)
            op = running.op
            waiting = self._queued.setdefault(op.args["sampler_id"], OrderedDict())
            waiting[job_id] = _Queued(op, running.since)
            waiting.move_to_end(job_id, last=False)

    def cancel(self, op_id: str) -> Operation | None:
        """Drop a request; return it, None where it is not here (any more). The caller answers it."""
        if op_id in self._running:
            self._engine.sampler.cancel(op_id)
            return self._leave(op_id).op
        for sampler_id, waiting in self._queued.items():
            if op_id in waiting:
                queued = waiting.pop(op_id)
                if not waiting:
                    del self._queued[sampler_id]
                return queued.op
        return None

    def drop_sampler(self, sampler_id: str, only_running: bool = False) -> list[Operation]:
        """Drop the requests of a sampler, those that wait too or not, and return them. The caller answers them."""
        ids = [op_id for op_id, r in self._running.items() if r.op.args["sampler_id"] == sampler_id]
        if not only_running:
            ids += self._queued.get(sampler_id, {})
        return [op for op in map(self.cancel, ids) if op is not None]

    # -- samplers that do not come ------------------------------------------------------------------------------------

    def hopeless(self, now: float) -> list[tuple[Operation, str]]:
        """Drop the requests whose sampler failed or was never announced; return each with the reason."""
        dropped: list[tuple[Operation, str]] = []
        for sampler_id, waiting in list(self._queued.items()):
            if self._samplers.is_usable(sampler_id) or self._samplers.coming(sampler_id):
                continue
            why = self._samplers.why_broken(sampler_id)
            for queued in list(waiting.values()):
                if why is None and now < queued.since + self._patience_s:
                    continue
                reason = why or f"sampler_id: got {sampler_id!r}, expected a sampler that exists and was not released"
                self.cancel(queued.op.op_id)
                dropped.append((queued.op, reason))
        return dropped

    def next_deadline(self) -> float | None:
        """Return when `hopeless` may next drop something by time alone."""
        starts = [
            next(iter(waiting.values())).since
            for sampler_id, waiting in self._queued.items()
            if not self._samplers.is_usable(sampler_id) and not self._samplers.coming(sampler_id)
        ]
        return min(starts) + self._patience_s if starts else None


def _is_fault_of_the_step(outcome: SampleResponse | Exception) -> bool:
    return isinstance(outcome, Exception) and not isinstance(outcome, UserError)


def sample_job(op: Operation) -> SampleJob:
    """Read the request of a SAMPLE operation."""
    inputs = read_sample_inputs(SampleRequest.model_validate_json(op.read_body()))
    params = inputs.params.model_copy(update={"seed": sample_seed(inputs.params.seed, op.op_id)})
    return SampleJob(job_id=op.op_id, sampler_id=op.args["sampler_id"], **vars(replace(inputs, params=params)))


def sample_seed(seed: int | None, op_id: str) -> int:
    """Return the seed of a request; where it brings none, one made of its id.

    The only place where a sample's seed is chosen. Ids are random and journalled, so that requests without a seed
    differ from each other, and each draws the same tokens when it is run again after a loss.
    """
    if seed is not None:
        return seed
    return int.from_bytes(hashlib.sha256(op_id.encode()).digest()[:7], "big")
