"""Sampling requests that the engine does not have yet: by sampler, some of whose samplers are still to come."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from tinsmith.scheduler.samples.known_samplers import KnownSamplers
from tinsmith.types.engine_messages.operations import Operation


@dataclass(frozen=True, slots=True)
class WaitingSample:
    """A request, from its arrival to its answer.

    Attributes:
        op: the operation.
        sampler_id: what it is sampled from.
        since: when it arrived.
    """

    op: Operation
    sampler_id: str
    since: float


class WaitingSamples:
    """Requests of each sampler in the order of their arrival.

    Args:
        known_samplers: which ids can be sampled from.
        patience_s: how long a request waits for a sampler that nobody has announced.
    """

    def __init__(self, known_samplers: KnownSamplers, patience_s: float) -> None:
        self._known_samplers = known_samplers
        self._patience_s = patience_s
        # No sampler is without requests.
        self._by_sampler: dict[str, OrderedDict[str, WaitingSample]] = {}
        # Those with which a host was lost.
        self._suspects: dict[str, WaitingSample] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_sampler.values()))

    # -- in and out ---------------------------------------------------------------------------------------------------

    def add(self, request: WaitingSample) -> None:
        """Put a request behind those of its sampler."""
        self._by_sampler.setdefault(request.sampler_id, OrderedDict())[request.op.request_id] = request
        if request.op.company is not None:
            self._suspects[request.op.request_id] = request

    def put_in_front(self, request: WaitingSample) -> None:
        """Put a request before those of its sampler."""
        self.add(request)
        self._by_sampler[request.sampler_id].move_to_end(request.op.request_id, last=False)

    def take(self, request: WaitingSample) -> WaitingSample:
        """Take a request out and return it."""
        waiting = self._by_sampler[request.sampler_id]
        del waiting[request.op.request_id]
        if not waiting:
            del self._by_sampler[request.sampler_id]
        self._suspects.pop(request.op.request_id, None)
        return request

    def take_first(self, sampler_id: str) -> WaitingSample:
        """Take out the first request of a sampler, which has one."""
        return self.take(next(iter(self._by_sampler[sampler_id].values())))

    # -- who waits ----------------------------------------------------------------------------------------------------

    def has(self, sampler_id: str) -> bool:
        """Whether a request of this sampler waits."""
        return sampler_id in self._by_sampler

    def of(self, sampler_id: str) -> list[str]:
        """Return the ids of a sampler's requests."""
        return list(self._by_sampler.get(sampler_id, ()))

    def find(self, request_id: str) -> WaitingSample | None:
        """Return a request, None where it does not wait."""
        return next((waiting[request_id] for waiting in self._by_sampler.values() if request_id in waiting), None)

    def usable(self) -> dict[str, str]:
        """Return whose they are, by sampler, of the requests that could begin now."""
        # A sampler has one owner, so that the first request tells whose all of them are.
        return {
            sampler_id: next(iter(waiting.values())).op.owner
            for sampler_id, waiting in self._by_sampler.items()
            if self._known_samplers.is_usable(sampler_id)
        }

    def suspects(self) -> list[WaitingSample]:
        """Return the requests with which a host was lost and that could begin now, in the order of their arrival."""
        return [one for one in self._suspects.values() if self._known_samplers.is_usable(one.sampler_id)]

    # -- samplers that do not come ------------------------------------------------------------------------------------

    def drop_hopeless(self, now: float) -> list[tuple[Operation, str]]:
        """Drop the requests whose sampler failed or was never announced; return each with the reason."""
        dropped: list[tuple[Operation, str]] = []
        for sampler_id in self._unannounced():
            why = self._known_samplers.why_broken(sampler_id)
            for request in list(self._by_sampler[sampler_id].values()):
                if why is None and now < request.since + self._patience_s:
                    continue
                reason = why or f"sampler_id: got {sampler_id!r}, expected a sampler that exists and was not released"
                dropped.append((self.take(request).op, reason))
        return dropped

    def next_deadline(self) -> float | None:
        """Return when `drop_hopeless` may next drop something by time alone."""
        starts = [next(iter(self._by_sampler[sampler_id].values())).since for sampler_id in self._unannounced()]
        return min(starts) + self._patience_s if starts else None

    def _unannounced(self) -> list[str]:
        """Return the samplers that can't be sampled from and that nobody is about to make."""
        known = self._known_samplers
        return [one for one in self._by_sampler if not known.is_usable(one) and not known.coming(one)]
