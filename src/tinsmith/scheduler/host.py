"""The loop that drives engines: one thread that takes operations in, shares out turns and sends events."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from tinsmith.scheduler.at_work import AtWork
from tinsmith.scheduler.engine_scheduler import EngineScheduler, HostedEngine, Lane
from tinsmith.scheduler.exactly_once import ExactlyOnce
from tinsmith.scheduler.flusher import Flush, Flusher, SnapshotWriter
from tinsmith.scheduler.shares.accounts import Accounts
from tinsmith.scheduler.stats import Meter
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Flushed, Ready
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import StartupError
from tinsmith.types.facts.base_model_info import BaseModelInfo

T = TypeVar("T")

# How often a busy host looks for work that has waited too long, and how long an idle one sleeps at most, seconds.
# Looking walks over all queues, which can cost more than a small turn; timeouts are so long that a tenth is nothing.
_EXPIRY_INTERVAL_S = 0.1
_LONGEST_SLEEP_S = 1.0
# After so long without work a host says that it rests, seconds. Not at once: a step is a handful of operations, one
# after the other, and whoever hears of the rest between two of them is about to hand over the next.
_REST_S = 0.02


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


MakeWriter = Callable[[Callable[[Flush, bool], None], Callable[[Iterable[str]], None]], SnapshotWriter]


class EngineHost:
    """Runs operations on the engines of one process.

    `submit`, `cancel`, `call` and `stop` may be called from any thread; everything else, `emit` included, happens on
    the thread that calls `run`.

    Args:
        engines: by name of the base model.
        emit: takes events; must not block.
        settings: limits and timeouts.
        clock: seconds, monotonic.
        make_writer: makes what writes snapshots, given what to tell of each and whether it is on disk, and what to tell
            the operations whose snapshots it is about to write.
        push: called where the events up to now should leave: when nothing else was left to do, before a turn and after.
        begin: told the ids of the operations that are about to be run, and of none when that is over, on any thread but
            one call after another. Who keeps them where they outlive this process can say what it died of.

    Attributes:
        infos: what is told about each base model, by name.
        turn: number of the turn that is going on, None between turns; may be read from any thread.
    """

    def __init__(
        self,
        engines: Mapping[str, HostedEngine],
        emit: Callable[[Event], None],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        make_writer: MakeWriter = Flusher,
        push: Callable[[], None] = lambda: None,
        begin: Callable[[Iterable[str]], None] = lambda ids: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._emit = emit
        self._push = push
        self._at_work = at_work = AtWork(begin)
        self._exactly_once = ExactlyOnce(emit, at_work.begin)
        # Its thread only posts: queues and events belong to the host's thread.
        self._flusher = make_writer(lambda flush, ok: self._post(lambda: self._flushed(flush, ok)), at_work.write)
        self._inbox: deque[Operation | _Cancel | Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        # Whoever called waits for an answer, and must get one when nobody is left to work.
        self._calls: set[Future[Any]] = set()
        self._ended = False
        self._engines: dict[str, EngineScheduler] = {}
        self.infos: dict[str, BaseModelInfo] = {}
        # The engines share one thread and one device, so an owner has one account for all of them.
        self._accounts: Accounts[tuple[str, Lane]] = Accounts()
        self._meter = Meter(clock())
        self._next_expiry = 0.0
        self._turns = 0
        self.turn: int | None = None
        for name, engine in engines.items():
            self.add_engine(name, engine)

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, op: Operation) -> None:
        """Hand over an operation; one with an id that was handed over before is dropped."""
        self._post(op)

    def cancel(self, request_id: str) -> None:
        """Drop a sample; it fails, unless it is finished already."""
        self._post(_Cancel(request_id))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the host's thread, between turns.

        The future fails with `StartupError` where `run` ends, or has ended, before the function's turn.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                self._calls.remove(future)
            except KeyError:  # given up
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._calls.add(future)
        self._post(run)
        # In this order: either this sees that the host has ended, or the end sees the call.
        if self._ended:
            self._give_up_calls()
        return future

    def _give_up_calls(self) -> None:
        while self._calls:
            try:
                future = self._calls.pop()
            except KeyError:  # another thread was quicker
                return
            future.set_exception(StartupError("the engine was stopped"))

    def stop(self) -> None:
        """End `run` after the turn that is going on."""
        self._stopping = True
        self._wake.set()

    def _post(self, item: Operation | _Cancel | Callable[[], None]) -> None:
        # In this order: the host clears the flag and looks into the inbox after that, so no item is left lying.
        self._inbox.append(item)
        self._wake.set()

    # -- on the host's thread -----------------------------------------------------------------------------------------

    def add_engine(self, name: str, engine: HostedEngine) -> BaseModelInfo:
        """Serve a further base model."""
        self._engines[name] = EngineScheduler(engine, self._exactly_once, self._flusher, self._settings, self._clock)
        self.infos[name] = engine.info
        return engine.info

    def run(self) -> None:
        """Announce the models and work until `stop`; snapshots that wait to be written are written first.

        Raises:
            EngineBroken: a device is lost; start a new host.
        """
        self._emit(Ready(list(self.infos.values())))
        try:
            while not self._stopping:
                if self.poll():
                    continue
                if not self._wake.wait(min(_REST_S, self._sleep())):
                    self.rest()
                    self._wake.wait(self._sleep())
                self._wake.clear()
        finally:
            self.close()

    def close(self) -> None:
        """Write the snapshots that wait for it, for at most five seconds."""
        self._ended = True
        self._give_up_calls()
        self._flusher.close(timeout=5.0)
        self._drain()

    def poll(self) -> bool:
        """Take in what has arrived and take one turn; return whether there may be more to do at once."""
        # Around all of it: whatever hangs in here holds up everybody.
        self._turns += 1
        self.turn = self._turns
        self._drain()
        ready: dict[str, list[tuple[str, Lane]]] = {}
        for name, engine in self._engines.items():
            for owner, lanes in engine.ready().items():
                ready.setdefault(owner, []).extend([(name, lane) for lane in lanes])
        started = self._clock()
        picked = self._accounts.pick(ready, started)
        if picked is not None:
            self._push()
            owner, (name, lane) = picked
            parts = self._engines[name].turn(lane, self._accounts.turn(owner))
            elapsed = self._clock() - started
            self._accounts.charge((name, lane), elapsed, parts)
            self._meter.worked(elapsed)
        # Not where it raises: then the process ends, and what ran is what it ends of.
        self._at_work.begin(())
        self._push()
        self._tick(busy=picked is not None)
        self.turn = None
        return picked is not None or bool(self._inbox)

    def _drain(self) -> None:
        # What arrives while draining waits for the next round, so that a flood cannot keep the engines idle.
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            if isinstance(item, Operation):
                self._accept(item)
            elif isinstance(item, _Cancel):
                # Only the id is known; the engine that does not have it does nothing.
                for engine in self._engines.values():
                    engine.cancel(item.request_id)
            else:
                item()

    def _accept(self, op: Operation) -> None:
        if not self._exactly_once.accept(op):
            return
        engine = self._engines.get(op.base_model)
        if engine is None:
            self._exactly_once.refuse(
                op, f"base_model: got {op.base_model!r}, expected one of {', '.join(self._engines)}"
            )
        else:
            self._accounts.weigh(op.owner, op.weight)
            engine.accept(op)

    def _flushed(self, flush: Flush, on_disk: bool) -> None:
        self._flusher.forget(flush)
        # Where it is not on disk its sampler is gone, or this host is about to be; then the journal still has the step.
        if on_disk:
            self._emit(Flushed(flush.request_id))

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self, busy: bool) -> None:
        now = self._clock()
        if not busy or now >= self._next_expiry:
            self._next_expiry = now + _EXPIRY_INTERVAL_S
            for engine in self._engines.values():
                engine.expire()
        if busy and self._meter.due(now):
            self._measure(now, busy)

    def rest(self) -> None:
        """Say once how an idle host stands."""
        if not self._meter.at_rest:
            self._measure(self._clock(), busy=False)
            self._push()

    def _measure(self, now: float, busy: bool) -> None:
        self._emit(self._meter.take(self._engines.values(), self._exactly_once.waiting, now, busy))

    def _sleep(self) -> float:
        """Return how long an idle host may sleep when nothing arrives, seconds."""
        deadlines = [d for engine in self._engines.values() if (d := engine.next_deadline()) is not None]
        now = self._clock()
        return max(0.0, min([now + _LONGEST_SLEEP_S, *deadlines]) - now)
