"""Shares of engine time: sampling against training, model against model, base model against base model."""

from __future__ import annotations

import pytest

from tests.support.fakes.fake_engine import FakeClock, FakeEngine
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.scheduler.shares.fairness import FairShare
from tinsmith.types.engine_messages.operations import Operation, SaveState


class TestFairShare:
    def test_gives_to_whom_has_had_least(self) -> None:
        fair: FairShare[str] = FairShare()
        turns = []
        for _ in range(9):
            key = fair.pick(["cheap", "dear"])
            assert key is not None
            turns.append(key)
            fair.charge(key, {"cheap": 1.0, "dear": 2.0}[key])
        assert turns.count("cheap") == 6
        assert turns.count("dear") == 3

    def test_idling_saves_up_nothing(self) -> None:
        fair: FairShare[str] = FairShare()
        for _ in range(100):
            assert fair.pick(["busy"]) == "busy"
            fair.charge("busy", 1.0)
        turns = []
        for _ in range(10):
            key = fair.pick(["busy", "back"])
            assert key is not None
            turns.append(key)
            fair.charge(key, 1.0)
        assert turns.count("back") in (5, 6)

    def test_leaving_does_not_wipe_out_what_one_had_ahead(self) -> None:
        fair: FairShare[str] = FairShare()
        fair.pick(["greedy", "other"])
        fair.charge("greedy", 10.0)
        for _ in range(5):
            assert fair.pick(["other"]) == "other"
            fair.charge("other", 1.0)
        assert [fair.pick(["greedy", "other"])] == ["other"]

    def test_nobody_has_work(self) -> None:
        assert FairShare[str]().pick([]) is None


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def drive_until(driven: Driven, op: Operation) -> None:
    while not driven.outcomes(op):
        driven.host.poll()


@pytest.mark.row(212)
def test_training_beside_a_flood_of_samples(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, token_s=0.1, step_s=0.2)
    driven = Driven(engine, clock=clock, max_decode_batch=8)
    driven.run(create("m"), load_sampler("s"))
    driven.submit(*[sample("s", max_tokens=100) for _ in range(500)])
    for _ in range(50):
        driven.host.poll()
    started, step = clock.now, optim("m", 2)
    driven.submit(forward_backward("m", 1, [5] * 160), step)
    drive_until(driven, step)
    alone = 160 * 2 * 0.1
    assert clock.now - started <= 2 * alone + 2 * 0.2


@pytest.mark.row(212)
def test_a_sample_beside_a_flood_of_training(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, token_s=0.1, step_s=0.2)
    driven = Driven(engine, clock=clock)
    driven.run(create("m"), load_sampler("s"))
    driven.submit(*[forward_backward("m", n, [5] * 64) for n in range(1, 100)])
    for _ in range(20):
        driven.host.poll()
    started, op = clock.now, sample("s", max_tokens=40)
    driven.submit(op)
    drive_until(driven, op)
    one_pass = 16 * 0.1
    assert clock.now - started <= 2 * 40 * 0.2 + 2 * one_pass


def test_a_small_step_beside_a_large_one(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, token_s=0.1)
    driven = Driven(engine, clock=clock)
    driven.run(create("large"), create("small"))
    driven.submit(*[forward_backward("large", n, [5] * 200) for n in range(1, 10)])
    for _ in range(20):
        driven.host.poll()
    started, step = clock.now, optim("small", 2)
    driven.submit(forward_backward("small", 1, [6] * 4), step)
    drive_until(driven, step)
    assert clock.now - started <= 4 * 16 * 0.1


def test_many_models_have_one_share_of_their_owner(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, max_tokens_per_pass=16)
    driven = Driven(engine, clock=clock)
    many = [f"m{n}" for n in range(10)]
    driven.run(*[create(m, owner="many") for m in many], create("one", owner="one"))
    driven.submit(*[forward_backward(m, 1, [5] * 40, owner="many") for m in many])
    driven.submit(forward_backward("one", 1, [5] * 40, owner="one"))
    while len(engine.passes) < 8:
        driven.host.poll()
    rows = [row.model_id for one in engine.passes for row in one]
    assert rows.count("one") == len(rows) // 2


def test_ten_small_tenants_share_passes(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, max_tokens_per_pass=64)
    driven = Driven(engine, clock=clock)
    driven.run(*[create(f"m{n}") for n in range(10)])
    driven.run(*[forward_backward(f"m{n}", 1, [5, 6, 7]) for n in range(10)])
    assert len(engine.passes) == 1
    assert {row.model_id for row in engine.passes[0]} == {f"m{n}" for n in range(10)}


@pytest.mark.row(210)
def test_passes_of_a_lone_model_do_not_depend_on_when_its_operations_arrive(clock: FakeClock) -> None:
    """Rounding depends on what shares a pass, so a replay equals the first life only if its passes do."""
    passes = []
    for together in (True, False):
        engine = FakeEngine(clock=clock, max_tokens_per_pass=6)
        driven = Driven(engine, clock=clock)
        ops = [create("m"), *[forward_backward("m", n, [n] * n) for n in range(1, 9)], optim("m", 9)]
        for batch in [ops] if together else [[op] for op in ops]:
            driven.run(*batch)
        passes.append([[row.datum for row in one] for one in engine.passes])
    assert passes[0] == passes[1]


def test_a_flood_of_saves_does_not_starve_a_neighbour(clock: FakeClock) -> None:
    engine = FakeEngine(clock=clock, token_s=0.1)

    def slow_save(model_id: str, folder: str) -> int:
        clock.now += 5.0
        return 0

    engine.save_state = slow_save
    driven = Driven(engine, clock=clock)
    driven.run(create("saver"), create("m"))
    driven.submit(*[operation(SaveState("/x"), "saver", n) for n in range(1, 50)])
    driven.host.poll()
    started, step = clock.now, optim("m", 2)
    driven.submit(forward_backward("m", 1, [5] * 32), step)
    drive_until(driven, step)
    assert clock.now - started <= 2 * 32 * 2 * 0.1 + 2 * 5.0


def test_base_models_share_the_host(clock: FakeClock) -> None:
    one, two = FakeEngine("one", clock=clock), FakeEngine("two", clock=clock)
    driven = Driven(one, two, clock=clock)
    driven.run(create("a", base_model="one"), create("b", base_model="two"))
    driven.submit(*[forward_backward("a", n, [5] * 8, base_model="one") for n in range(1, 50)])
    driven.submit(*[forward_backward("b", n, [5] * 8, base_model="two") for n in range(1, 50)])
    for _ in range(20):
        driven.host.poll()
    assert abs(len(one.passes) - len(two.passes)) <= 1
