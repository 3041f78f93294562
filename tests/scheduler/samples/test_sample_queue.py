"""Samples: their samplers, cancelling, fairness between samplers, steps that fail."""

from __future__ import annotations

import pytest

from tests.support.fakes.fake_engine import BAD_ROW, CRASH_PASS, HUNGRY, FakeEngine, fake_token
from tests.support.operations import Driven, create, load_sampler, operation, sample
from tinsmith.types.engine_messages.host_events import Result
from tinsmith.types.engine_messages.operations import ReleaseSampler, Sample, TakeSnapshot
from tinsmith.types.errors import RequestErrorCategory


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def driven(engine: FakeEngine) -> Driven:
    return Driven(engine, clock=engine.clock, max_decode_batch=2)


def test_a_sample_is_answered_with_its_sequences(driven: Driven) -> None:
    op = sample("s", max_tokens=3, num_samples=2, seed=7)
    driven.run(load_sampler("s"), op)
    assert driven.result(op).media_type == "application/x-protobuf"
    tokens = [fake_token(None, 7, position) for position in range(3)]
    assert [sequence.tokens for sequence in driven.response(op).sequences] == [tokens, tokens]


def test_a_sample_without_seed_draws_the_same_when_it_runs_again(engine: FakeEngine, driven: Driven) -> None:
    first = sample("s", max_tokens=3, request_id="same")
    driven.run(load_sampler("s"), first)
    other = Driven(FakeEngine())
    other.run(load_sampler("s"), first)
    assert other.response(first) == driven.response(first)
    another = sample("s", max_tokens=3)
    driven.run(another)
    assert driven.response(another).sequences[0].tokens != driven.response(first).sequences[0].tokens


class TestUnknownSamplers:
    def test_a_sample_waits_for_a_sampler_that_is_announced(self, engine: FakeEngine, driven: Driven) -> None:
        op = sample("s")
        driven.run(op)
        engine.clock.now += 20.0
        driven.run(load_sampler("s"))
        assert driven.response(op)

    def test_a_sampler_that_never_comes(self, engine: FakeEngine, driven: Driven) -> None:
        op = sample("ghost")
        driven.run(op)
        engine.clock.now += 31.0
        driven.run()
        failure = driven.failure(op)
        assert failure.category == RequestErrorCategory.USER
        assert failure.message.startswith("sampler_id: got 'ghost', expected a sampler that exists")

    def test_a_sampler_that_cannot_be_loaded(self, driven: Driven) -> None:
        early, late, load = sample("s"), sample("s"), load_sampler("s", "/nowhere")
        driven.run(early, load)
        driven.run(late)
        for op in (early, late):
            assert "checkpoint /nowhere: got nothing, expected weights" in driven.failure(op).message
        assert driven.failure(load).category == RequestErrorCategory.USER

    def test_a_snapshot_whose_model_fails(self, driven: Driven) -> None:
        op = sample("s")
        snapshot = operation(TakeSnapshot("s", "/nowhere/s"), "m", 1)
        driven.run(op, snapshot, create("m", rank=512))
        assert "sampler s could not be made" in driven.failure(op).message


class TestRelease:
    def test_fails_what_waits_and_what_runs(self, engine: FakeEngine, driven: Driven) -> None:
        ops = [sample("s", max_tokens=50) for _ in range(9)]
        neighbour = sample("t", max_tokens=50)
        driven.submit(load_sampler("s"), load_sampler("t"), *ops, neighbour)
        for _ in range(6):
            driven.host.poll()
        release = operation(ReleaseSampler("s"))
        driven.run(release)
        assert all("sampler s was released" in driven.failure(op).message for op in ops)
        assert driven.response(neighbour)
        assert list(engine.samplers) == ["t"]

    def test_of_an_unknown_sampler_is_nothing(self, driven: Driven) -> None:
        release = operation(ReleaseSampler("ghost"))
        driven.run(release)
        assert driven.payload(release) == {}

    def test_a_released_sampler_can_be_loaded_again(self, engine: FakeEngine, driven: Driven) -> None:
        release, again, op = operation(ReleaseSampler("s")), load_sampler("s"), sample("s")
        driven.run(load_sampler("s"), release, again, op)
        assert driven.result(release)
        assert driven.response(op)


class TestCancel:
    def test_waiting_and_running_samples_are_dropped(self, engine: FakeEngine, driven: Driven) -> None:
        ops = [sample("s", max_tokens=5) for _ in range(8)]
        driven.submit(load_sampler("s"), *ops)
        for _ in range(3):
            driven.host.poll()
        for op in (ops[0], ops[7]):
            driven.host.cancel(op.request_id)
        driven.run()
        assert driven.failure(ops[0]).message == driven.failure(ops[7]).message == "the request was cancelled"
        assert ops[7].request_id not in engine.sampler.added
        assert all(driven.response(op) for op in ops[1:7])

    def test_of_what_is_finished_or_unknown_is_nothing(self, driven: Driven) -> None:
        op = sample("s")
        driven.run(load_sampler("s"), op)
        driven.host.cancel(op.request_id)
        driven.host.cancel("never-heard-of")
        driven.run()
        assert driven.response(op)


class TestTurns:
    def test_a_flood_of_one_sampler_does_not_stand_before_another(self, engine: FakeEngine, driven: Driven) -> None:
        flood = [sample("s", max_tokens=4) for _ in range(40)]
        driven.submit(load_sampler("s"), load_sampler("t"), *flood)
        for _ in range(8):
            driven.host.poll()
        already = len(engine.sampler.added)
        op = sample("t", max_tokens=4)
        driven.run(op)
        assert engine.sampler.added.index(op.request_id) <= already + 1

    def test_a_request_with_many_samples_does_not_stand_before_another_owner(
        self, engine: FakeEngine, driven: Driven
    ) -> None:
        flood = [sample("s", max_tokens=40, num_samples=100, owner="flood") for _ in range(4)]
        driven.submit(load_sampler("s"), load_sampler("t"), *flood)
        for _ in range(8):
            driven.host.poll()
        assert len(engine.sampler.added) == 1
        op = sample("t", max_tokens=4, owner="small")
        driven.run(op)
        assert engine.sampler.added.index(op.request_id) == 1

    def test_many_samplers_have_one_share_of_their_owner(self, engine: FakeEngine, driven: Driven) -> None:
        samplers = [f"s{n}" for n in range(10)]
        flood = [sample(s, max_tokens=4, owner="flood") for _ in range(4) for s in samplers]
        few = [sample("t", max_tokens=4, owner="few") for _ in range(6)]
        driven.run(*(load_sampler(s) for s in [*samplers, "t"]))
        driven.run(*flood, *few)
        order = engine.sampler.added
        assert max(order.index(op.request_id) for op in few) <= 2 * len(few) + 4

    def test_only_a_small_backlog_is_handed_to_the_engine(self, engine: FakeEngine, driven: Driven) -> None:
        driven.submit(load_sampler("s"), *[sample("s", max_tokens=100, num_samples=2) for _ in range(40)])
        for _ in range(10):
            driven.host.poll()
        assert len(engine.sampler.added) == 2


class TestFailures:
    def test_a_bad_request_fails_alone(self, driven: Driven) -> None:
        good, bad = sample("s"), sample("s", [BAD_ROW])
        image = operation(
            Sample("s"),
            body=b'{"sampling_session_id": "s", "seq_id": 0, "prompt": {"chunks": [{"type": "image"}]}}',
        )
        driven.run(load_sampler("s"), bad, good, image)
        assert driven.failure(bad).message == "prompt[0]: got 100000, expected anything else"
        assert driven.failure(image).message.startswith("prompt.chunks[0].type: got 'image'")
        assert driven.response(good)

    @pytest.mark.parametrize("code", [CRASH_PASS, HUNGRY])
    @pytest.mark.parametrize("place", [0, 2, 5])
    def test_a_step_that_fails_as_a_whole_fails_the_culprit_only(
        self, engine: FakeEngine, code: int, place: int
    ) -> None:
        driven = Driven(engine, clock=engine.clock, max_decode_batch=8)
        ops = [sample("s", [code if n == place else 5], max_tokens=3, seed=n) for n in range(6)]
        driven.run(load_sampler("s"), *ops)
        for n, op in enumerate(ops):
            if n == place and code == CRASH_PASS:
                assert "ZeroDivisionError" in driven.failure(op).message
                assert driven.failure(op).category == RequestErrorCategory.SERVER
            else:
                assert driven.response(op).sequences[0].tokens == [fake_token(None, n, k) for k in range(3)]

    def test_the_batch_grows_again_afterwards(self, engine: FakeEngine) -> None:
        driven = Driven(engine, clock=engine.clock, max_decode_batch=8)
        driven.run(load_sampler("s"), sample("s", [CRASH_PASS]), *[sample("s") for _ in range(20)])
        before = engine.clock.now
        driven.run(*[sample("s", max_tokens=10) for _ in range(8)])
        assert engine.clock.now - before < 25, "eight requests of ten tokens, side by side"
        assert sum(isinstance(e, Result) for e in driven.events) == 29
