"""Simulated time, and in it the service's real host with an engine and a disk that only take time.

Time is simpy's, because tenants are best written as what they do one after the other. The host's own thread is one of
its processes: it takes a turn, lets the time pass that its engine says the turn took, and hands out what came of it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator

import simpy

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.engine import MODEL, SimulatedEngine
from benchmarks.simulation.ledger import Ledger
from tinsmith.scheduler.flusher import Flush
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Failure, Result
from tinsmith.types.engine_messages.operations import Operation, ReleaseSampler

# Turns in a row that may take no time: operations that are answered without any. More, and the host turns for ever.
_IDLE_TURNS = 10_000


class SimulatedDisk:
    """Writes snapshots one after the other beside everything else; a `SnapshotWriter`.

    Args:
        env: whose time it takes.
        clock: the host's.
        write_s: seconds for one.
        on_done: told of each.
        wake: called after that.
    """

    def __init__(
        self,
        env: simpy.Environment,
        clock: Clock,
        write_s: float,
        on_done: Callable[[Flush, bool], None],
        wake: Callable[[], None],
    ) -> None:
        self._env = env
        self._clock = clock
        self._write_s = write_s
        self._on_done = on_done
        self._wake = wake
        self._busy: Counter[str] = Counter()
        self._free_at = 0.0

    def add(self, flush: Flush) -> None:
        """Write a snapshot soon."""
        self._busy[flush.sampler_id] += 1
        self._free_at = max(self._free_at, self._clock()) + self._write_s
        self._env.process(self._write(flush, self._free_at - self._env.now))

    def write_now(self, flush: Flush) -> None:
        """No process is lost here, so that nothing is in a hurry."""
        self.add(flush)

    def _write(self, flush: Flush, seconds: float) -> Generator[simpy.Event]:
        yield self._env.timeout(seconds)
        self._on_done(flush, True)
        self._wake()

    def holds(self, sampler_id: str) -> bool:
        """Whether a sampler is still to be written."""
        return self._busy[sampler_id] > 0

    def abandon(self, sampler_id: str) -> None:
        """Nothing: what is under way is written."""

    def forget(self, flush: Flush) -> None:
        """Let go of a sampler."""
        self._busy[flush.sampler_id] -= 1
        if not self._busy[flush.sampler_id]:
            del self._busy[flush.sampler_id]

    def close(self, timeout: float) -> None:
        """Nothing: there is no thread."""


class World:
    """A host, its engine and its disk.

    Args:
        settings: sizes and limits, as the service's.
        costs: of the engine.
        cache_tokens: tokens that the KV cache holds.

    Attributes:
        env: simpy's environment, for whoever submits.
        ledger: what happened so far.
        turns: that the host took.
        deciding_s: seconds of this machine that the scheduler's own code took.
    """

    def __init__(self, settings: Settings, costs: Costs, cache_tokens: int) -> None:
        self.env = simpy.Environment()
        self._clock = Clock(self.env)
        self.ledger = Ledger(self._clock)
        self.engine = SimulatedEngine(settings, cache_tokens, costs, self.ledger)
        self._emitted: deque[Event] = deque()
        self.host = EngineHost(
            {MODEL: self.engine},
            self._emitted.append,
            settings,
            self._clock,
            lambda on_done, begin: SimulatedDisk(self.env, self._clock, costs.write_s, on_done, self._wake),
        )
        self._answers: dict[str, simpy.Event] = {}
        # Operations that must not wait while the engine is idle; releases may, for the disk.
        self._must_run: set[str] = set()
        self._call = self.env.event()
        self._numbers = 0
        self._turn_ends = 0.0
        self.turns = 0
        self.deciding_s = 0.0
        self.env.process(self._work())

    def next_id(self) -> str:
        """Return a request id that is not in use."""
        self._numbers += 1
        return f"request-{self._numbers}"

    def submit(self, op: Operation, units: int = 0) -> simpy.Event:
        """Hand an operation to the host; the event happens when it is answered.

        Args:
            op: of an owner that the ledger knows.
            units: rows or samples that it asks for.
        """
        self.ledger.submitted(op, units)
        answer = self._answers[op.request_id] = self.env.event()
        if not isinstance(op.work, ReleaseSampler):
            self._must_run.add(op.request_id)
        self.host.submit(op)
        self._wake()
        return answer

    def run(self, seconds: float, window_s: float) -> None:
        """Let time pass; shares are taken of windows of that length.

        Raises:
            RuntimeError: the host turned and turned and nothing came of it, or an operation failed.
        """
        end = self.env.now + seconds
        while self.env.now < end:
            self.ledger.begin_window()
            self.env.run(until=min(self.env.now + window_s, end))
            self.ledger.end_window()
        self.ledger.end(seconds, max(0.0, self._turn_ends - self.env.now))

    def _wake(self) -> None:
        if not self._call.triggered:
            self._call.succeed()

    def _work(self) -> Generator[simpy.Event]:
        """The host's thread."""
        without_time = 0
        while True:
            more = self._turn()
            spent = self._clock.take()
            if spent:
                self._turn_ends = self.env.now + spent
                yield self.env.timeout(spent)
            without_time = 0 if spent or not more else without_time + 1
            if without_time > _IDLE_TURNS:
                raise RuntimeError(f"{len(self._must_run)} operations wait, and the host turns without doing any")
            self._deliver()
            if not more:
                yield from self._sleep()

    def _turn(self) -> bool:
        began, pretended = time.process_time(), self.engine.simulating_s
        more = self.host.poll()
        self.turns += 1
        self.deciding_s += time.process_time() - began - (self.engine.simulating_s - pretended)
        return more

    def _sleep(self) -> Generator[simpy.Event]:
        self._call = self.env.event()
        since, waiting = self.env.now, bool(self._must_run)
        yield self._call
        if waiting:
            self.ledger.idle_beside_work_s += self.env.now - since

    def _deliver(self) -> None:
        while self._emitted:
            event = self._emitted.popleft()
            if isinstance(event, Failure):
                raise RuntimeError(f"an operation failed: {event.message}")
            if isinstance(event, Result):
                self._must_run.discard(event.request_id)
                self.ledger.answered(event.request_id)
                self._answers.pop(event.request_id).succeed()
