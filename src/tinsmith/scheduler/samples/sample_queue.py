"""Sampling requests of one engine: who gets into the running batch, in which order, and what comes out.

The engine's sampler runs a batch that requests join and leave. Each owner has a small backlog there; what is beyond it
waits here, where an owner's samplers take turns. So one tenant's flood does not stand in front of another's request;
within the engine the accounts say whose rows a step computes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sharing import PassShare, Turn
from tinsmith.scheduler.exactly_once import ExactlyOnce
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.samples.known_samplers import KnownSamplers
from tinsmith.scheduler.samples.sample_jobs import sample_job
from tinsmith.scheduler.samples.waiting_samples import WaitingSample, WaitingSamples
from tinsmith.scheduler.shares.fairness import OwnedShare
from tinsmith.types.codec import encode_sample_response
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import UserError
from tinsmith.types.names.http_names import PROTOBUF
from tinsmith.types.outputs import SampleResponse

logger = logging.getLogger(__name__)


class BatchSampler(Protocol):
    """What sampling needs of an engine."""

    @property
    def last(self) -> PassShare | None:
        """Who had how much of the last step; None where it had nothing to do."""
        ...

    def add(self, job: SampleJob, /) -> object: ...
    def cancel(self, request_id: str, /) -> object: ...

    # Told the ids of the requests that a step computes, before it does.
    on_step: Callable[[Iterable[str]], None]

    def step(self, turn: Turn, /) -> Iterable[tuple[str, SampleResponse | Exception]]: ...


@dataclass(frozen=True, slots=True)
class _Running:
    queued: WaitingSample
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

    Requests with which a host was lost (`Operation.company`) come first, few at a time and nobody beside them; whoever
    runs when one comes begins again later. So what ends the process is found among them, and the others wait once.

    Args:
        engine: has the sampler.
        known_samplers: which ids can be sampled from.
        max_batch: sequences that the engine decodes at once; of each owner twice as many are handed to it.
        patience_s: how long a sample waits for a sampler that nobody has announced.
    """

    def __init__(
        self,
        engine: SamplingEngine,
        known_samplers: KnownSamplers,
        exactly_once: ExactlyOnce,
        max_batch: int,
        patience_s: float,
    ) -> None:
        self._engine = engine
        self._exactly_once = exactly_once
        # Twice what runs at once: the engine always has a next request to prefill, and a newcomer of another sampler
        # of the same owner has at most one batch in front of it.
        self._room = 2 * max_batch
        self._fair: OwnedShare[str] = OwnedShare()
        self.waiting = WaitingSamples(known_samplers, patience_s)
        self._running: dict[str, _Running] = {}
        # Of those that run and with which a host was lost, their company.
        self._tried: dict[str, int] = {}
        # By owner, what runs and what is in the engine but cannot go on before something else there has.
        self._sequences: Counter[str] = Counter()
        self._stuck: set[str] = set()
        # Most requests at once after a step failed as a whole; None while nothing is suspected.
        self._limit: int | None = None
        self.tokens = 0

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return len(self.waiting)

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return len(self._running)

    @property
    def running_ids(self) -> list[str]:
        """Ids of the requests in the engine."""
        return list(self._running)

    def owners(self) -> list[str]:
        """Return the owners for whom a turn would do something, those that have something in the engine first."""
        waiting = self.waiting.usable().values()
        return [owner for owner in dict.fromkeys((*self._sequences, *waiting)) if owner not in self._stuck]

    def offer(self, op: Operation, sampler_id: str, now: float) -> None:
        """Take a SAMPLE operation from a sampler."""
        self.waiting.add(WaitingSample(op, sampler_id, now))

    def turn(self, turn: Turn) -> PassShare | None:
        """Let requests in and run one step of the engine's sampler; return who had how much of it."""
        self._admit(turn)
        if not self._running:
            return None
        # Asked before the step, after which the request may have left.
        alone = len(self._running) == 1
        sampler = self._engine.sampler
        # Of all that it holds, the sampler alone knows whom it serves in a step.
        sampler.on_step = self._exactly_once.begin
        try:
            finished = list(sampler.step(turn))
        except Exception as error:
            raise_if_fatal(error)
            finished = [(request_id, error) for request_id in self._running]
            for request_id in self._running:
                self._engine.sampler.cancel(request_id)
        # Before anything is answered: with a broken device nobody is to blame, and a new host repeats them all.
        for _, outcome in finished:
            if isinstance(outcome, Exception):
                raise_if_fatal(outcome)
        if not alone:
            self._begin_again([request_id for request_id, outcome in finished if _is_fault_of_the_step(outcome)])
        for request_id, outcome in finished:
            # Those that begin again have left.
            if request_id in self._running:
                self._finish(request_id, outcome)
        if sampler.last is not None:
            self._stuck.clear()
        elif turn.leader is not None and not finished:
            # Its sequences wait for blocks that others hold: it has nothing to do until one of those has moved.
            self._stuck.add(turn.leader)
        return sampler.last

    # -- in -----------------------------------------------------------------------------------------------------------

    def _admit(self, turn: Turn) -> None:
        if self._admit_suspects():
            return
        usable = self.waiting.usable()
        self._fair.activate(usable)
        by_owner: dict[str, dict[str, None]] = {}
        for sampler_id, owner in usable.items():
            by_owner.setdefault(owner, {})[sampler_id] = None
        for owner in turn.in_order(by_owner):
            samplers = by_owner[owner]
            # One request with many samples may fill the backlog by itself.
            while samplers and self._sequences[owner] < self._room:
                if self._limit is not None and len(self._running) >= self._limit:
                    return
                sampler_id = self._fair.least(samplers)
                # In sequences, for what they cost in tokens is not known before they end.
                self._fair.charge(sampler_id, self._start(self.waiting.take_first(sampler_id)))
                if not self.waiting.has(sampler_id):
                    del samplers[sampler_id]

    def _admit_suspects(self) -> bool:
        """Let in suspects as their company allows; return whether there are any, beside whom nobody else is let in."""
        waiting = self.waiting.suspects()
        if not waiting:
            return bool(self._tried)
        self._put_back([request_id for request_id in self._running if request_id not in self._tried])
        limits = [limit for limit in (self._limit, *self._tried.values()) if limit is not None]
        for queued in waiting:
            limits += [queued.op.company] if queued.op.company is not None else []
            if len(self._running) >= min(limits):
                break
            self._start(self.waiting.take(queued))
        return True

    def _start(self, queued: WaitingSample) -> int:
        """Hand a request to the engine; return how many sequences it asks for, 0 where it was refused."""
        self._exactly_once.begin((queued.op.request_id,))
        try:
            job = sample_job(queued.op, queued.sampler_id)
            self._engine.sampler.add(job)
        except Exception as error:
            raise_if_fatal(error)
            self._exactly_once.failure(queued.op, error)
            return 0
        self._running[queued.op.request_id] = _Running(queued, job.num_samples)
        if queued.op.company is not None:
            self._tried[queued.op.request_id] = queued.op.company
        self._sequences[queued.op.owner] += job.num_samples
        return job.num_samples

    # -- out ----------------------------------------------------------------------------------------------------------

    def _finish(self, request_id: str, outcome: SampleResponse | Exception) -> None:
        op = self._leave(request_id).op
        try:
            if isinstance(outcome, Exception):
                raise outcome
            payload = encode_sample_response(outcome)
        except Exception as error:
            self._exactly_once.failure(op, error)
            return
        if self._limit is not None:
            self._limit += 1  # slowly back to full batches, as the culprit may still be waiting
        self.tokens += sum(len(sequence.tokens) for sequence in outcome.sequences)
        self._exactly_once.result(op, payload, PROTOBUF)

    def _leave(self, request_id: str) -> WaitingSample:
        running = self._running.pop(request_id)
        self._tried.pop(request_id, None)
        owner = running.queued.op.owner
        self._sequences[owner] -= running.sequences
        # A Counter keeps zeros; owners come and go.
        if not self._sequences[owner]:
            del self._sequences[owner]
        self._stuck.clear()
        return running.queued

    def _begin_again(self, request_ids: list[str]) -> None:
        if not request_ids:
            return
        logger.warning("a sampling step failed; %d requests begin again, half as many at once", len(request_ids))
        self._limit = max(1, len(self._running) // 2)
        self._put_back(request_ids)

    def _put_back(self, request_ids: list[str]) -> None:
        """Let requests that run begin again."""
        # The last one first, each put in front: they keep their order and stand before those that never ran.
        for request_id in reversed(request_ids):
            self._engine.sampler.cancel(request_id)
            self.waiting.put_in_front(self._leave(request_id))

    def cancel(self, request_id: str) -> Operation | None:
        """Drop a request; return it, None where it is not here (any more). The caller answers it."""
        if request_id in self._running:
            self._engine.sampler.cancel(request_id)
            return self._leave(request_id).op
        waiting = self.waiting.find(request_id)
        return None if waiting is None else self.waiting.take(waiting).op

    def drop_sampler(self, sampler_id: str, only_running: bool = False) -> list[Operation]:
        """Drop the requests of a sampler, those that wait too or not, and return them. The caller answers them."""
        ids = [request_id for request_id, r in self._running.items() if r.queued.sampler_id == sampler_id]
        if not only_running:
            ids += self.waiting.of(sampler_id)
        return [op for op in map(self.cancel, ids) if op is not None]


def _is_fault_of_the_step(outcome: SampleResponse | Exception) -> bool:
    # A UserError names what is wrong with one request; anything else may be its neighbour's doing.
    return isinstance(outcome, Exception) and not isinstance(outcome, UserError)
