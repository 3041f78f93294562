"""The host as a loop: threads that talk to it, stats, and what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import BROKEN_DEVICE, FakeClock, FakeEngine
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.scheduler.failures import EngineBroken
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Event, Failure, Flushed, Ready, Result, Stats
from tinsmith.types.engine_messages.operations import TakeSnapshot
from tinsmith.types.errors import StartupError


def test_threads_hand_over_work_while_it_runs() -> None:
    driven = Driven(FakeEngine())
    thread = threading.Thread(target=driven.host.run)
    thread.start()
    driven.submit(load_sampler("s"))
    clients = [[sample("s") for _ in range(100)] for _ in range(4)]
    senders = [threading.Thread(target=driven.submit, args=ops) for ops in clients]
    for sender in senders:
        sender.start()
    assert driven.host.call(lambda: "on the host's thread").result(10) == "on the host's thread"
    with pytest.raises(ZeroDivisionError):
        driven.host.call(lambda: 1 // 0).result(10)
    deadline = time.monotonic() + 20
    while len([op for ops in clients for op in ops if driven.outcomes(op)]) < 400:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driven.host.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(driven.events[0], Ready)


def test_whoever_waits_for_a_call_hears_that_the_host_ended() -> None:
    driven = Driven(FakeEngine())
    ran: list[str] = []
    thread = threading.Thread(target=driven.host.run)
    begun, going_on = threading.Event(), threading.Event()

    def first() -> str:
        begun.set()
        assert going_on.wait(20)
        ran.append("first")
        return "done"

    under_way = driven.host.call(first)
    thread.start()
    assert begun.wait(20)
    waiting = driven.host.call(lambda: ran.append("second"))
    driven.host.stop()
    going_on.set()
    thread.join(20)
    assert under_way.result(0) == "done"
    for late in (waiting, driven.host.call(lambda: ran.append("third"))):
        with pytest.raises(StartupError, match="the engine was stopped"):
            late.result(0)
    assert ran == ["first"]


def test_stopping_writes_the_snapshots_that_wait(tmp_path: Path) -> None:
    driven = Driven(FakeEngine())
    ops = [operation(TakeSnapshot(f"s{n}", str(tmp_path / f"s{n}")), "m", n) for n in range(1, 9)]
    thread = threading.Thread(target=driven.host.run)
    thread.start()
    driven.submit(create("m"), *ops)
    deadline = time.monotonic() + 20
    while not driven.outcomes(ops[-1]):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    driven.host.stop()
    thread.join(10)
    assert {e.request_id for e in driven.events if isinstance(e, Flushed)} == {op.request_id for op in ops}
    assert len(list(tmp_path.iterdir())) == 8


def test_a_broken_device_ends_the_host_and_leaves_work_unanswered() -> None:
    driven = Driven(FakeEngine())
    op, neighbour = forward_backward("m", 1, [BROKEN_DEVICE]), forward_backward("n", 1, [5])
    with pytest.raises(EngineBroken, match="the device failed: CUDA error"):
        driven.run(create("m"), create("n"), op, neighbour)
    assert not driven.outcomes(op)
    assert not driven.outcomes(neighbour)


def test_events_leave_before_the_next_turn_begins() -> None:
    said: list[str] = []

    class Engine(FakeEngine):
        def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
            said.append("pass")
            return super().train_rows(rows)

    def emit(event: Event) -> None:
        if isinstance(event, Result | Failure):
            said.append(event.request_id)

    host = EngineHost({"base": Engine()}, emit, Settings(), push=lambda: said.append("push"))
    refused = optim("m", 0)
    made, passed = create("m"), forward_backward("m", 1, [5])
    for op in (made, refused, passed):
        host.submit(op)
    while host.poll():
        pass
    # What is refused at the door does not wait for the turn, and a result not for what comes after its own.
    assert said.index("push", said.index(refused.request_id)) < said.index(made.request_id)
    assert said.index("push", said.index(made.request_id)) < said.index("pass")
    assert said[said.index(passed.request_id) + 1] == "push"


class TestStats:
    def test_come_about_once_a_second_and_at_rest(self) -> None:
        clock = FakeClock()
        driven = Driven(FakeEngine(clock=clock, token_s=0.05, step_s=0.1), clock=clock)
        driven.run(create("m"), load_sampler("s"))
        driven.run(*[forward_backward("m", n, [5] * 8) for n in range(1, 6)], optim("m", 6), sample("s", max_tokens=20))
        stats = driven.stats()
        assert 5 <= len(stats) <= 9
        assert stats[-1]["unanswered"] == stats[-1]["queued_samples"] == stats[-1]["running_samples"] == 0
        assert stats[-1]["models"] == stats[-1]["samplers"] == 1
        assert max(s["train_tokens_per_second"] for s in stats) > 5
        assert all(0 <= s["busy"] <= 1 for s in stats)
        # Counts and the engine's own figures.
        assert (stats[-1]["train_tokens"], stats[-1]["sample_tokens"]) == (80, 20)
        assert stats[-1]["adapter_bytes"] == 1

    def test_name_the_samples_that_run(self) -> None:
        clock = FakeClock()
        driven = Driven(FakeEngine(clock=clock, step_s=0.6), clock=clock)
        first = sample("s", max_tokens=5)
        driven.run(load_sampler("s"), first)
        running = [event.running for event in driven.events if isinstance(event, Stats)]
        assert [first.request_id] in running
        assert running[-1] == []

    def test_an_idle_host_is_silent(self) -> None:
        clock = FakeClock()
        driven = Driven(FakeEngine(clock=clock), clock=clock)
        driven.run(create("m"))
        before = len(driven.stats())
        for _ in range(5):
            clock.now += 10.0
            driven.run()
        assert len(driven.stats()) == before == 1

    def test_a_rest_is_told_once_it_is_one(self) -> None:
        host = EngineHost({"base": FakeEngine()}, (events := list[Event]()).append, Settings())
        for op in (create("m"), forward_backward("m", 1, [5]), optim("m", 2)):
            host.submit(op)
            while host.poll():
                pass
        assert not [event for event in events if isinstance(event, Stats)]
        host.rest()
        host.rest()
        assert [type(event) for event in events].count(Stats) == 1
