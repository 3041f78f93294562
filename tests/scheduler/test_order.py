"""The order of one model: out-of-order arrival, gaps, skips, failures, replay, birth and release."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import BAD_ROW, CRASH_PASS, FakeEngine
from tests.support.operations import Driven, create, forward_backward, operation, optim
from tinsmith.types.engine_messages.operations import (
    ForwardBackward,
    LoadState,
    ReleaseModel,
    SaveSampler,
    SaveState,
    Skip,
)
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.params import LoraConfig

USER = RequestErrorCategory.USER
SERVER = RequestErrorCategory.SERVER


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def driven(engine: FakeEngine) -> Driven:
    return Driven(engine, clock=engine.clock, gap_timeout_s=100.0)


@pytest.mark.row(37)
def test_operations_run_by_seq_id_whatever_order_they_arrive_in(engine: FakeEngine, driven: Driven) -> None:
    first, second, step = forward_backward("m", 1, [11]), forward_backward("m", 2, [12]), optim("m", 3)
    driven.run(create("m"), step, second)
    assert not driven.outcomes(step)
    driven.run(first)
    assert engine.models["m"].weights == ((11, 12),)
    assert driven.payload(step) == {"metrics": {"steps:unique": 1.0}}


def test_the_result_holds_logprobs_per_datum_and_sums(driven: Driven) -> None:
    op = forward_backward("m", 1, [[3, 1, 1], [4, 1]])
    driven.run(create("m"), op)
    output = driven.output(op)
    assert [o["logprobs"].tolist() for o in output.loss_fn_outputs] == [[-3.0] * 3, [-4.0] * 2]
    assert output.metrics == {"loss:sum": 7.0, "tokens:sum": 5.0}


def test_operations_wait_for_their_model(engine: FakeEngine, driven: Driven) -> None:
    op = forward_backward("m", 1, [11])
    driven.run(op)
    assert not driven.outcomes(op)
    driven.run(create("m"))
    assert driven.result(op)


def test_a_repeated_submission_is_dropped(engine: FakeEngine, driven: Driven) -> None:
    op = forward_backward("m", 1, [11])
    driven.run(create("m"), op, op)
    driven.run(op)
    assert driven.result(op)
    assert engine.models["m"].gradients == [11]


def test_two_operations_with_one_seq_id(driven: Driven) -> None:
    waiting, same = optim("m", 2), optim("m", 2)
    done, late = forward_backward("m", 1, [11]), forward_backward("m", 1, [12])
    driven.run(create("m"), waiting, same, done, late)
    assert "seq_id: got 2" in driven.failure(same).message
    assert "seq_id: got 1" in driven.failure(late).message
    assert driven.result(waiting)


class TestFailedForwardBackward:
    """A failed forward_backward makes the next optim_step fail; gradients are cleared, weights stay."""

    @pytest.mark.parametrize(("code", "category"), [(BAD_ROW, USER), (CRASH_PASS, SERVER)])
    def test_fails_the_next_step_only(
        self, engine: FakeEngine, driven: Driven, code: int, category: RequestErrorCategory
    ) -> None:
        good, bad, step = forward_backward("m", 1, [11]), forward_backward("m", 2, [12, code]), optim("m", 3)
        again, next_step = forward_backward("m", 4, [13]), optim("m", 5)
        driven.run(create("m"), good, bad, step, again, next_step)
        assert driven.result(good)
        assert driven.failure(bad).category == category
        assert driven.failure(step).category == USER
        assert "forward_backward with seq_id 2 failed" in driven.failure(step).message
        assert driven.result(next_step)
        assert engine.models["m"].weights == ((13,),)

    def test_names_the_datum(self, driven: Driven) -> None:
        bad = forward_backward("m", 1, [11, BAD_ROW, 12])
        driven.run(create("m"), bad)
        assert driven.failure(bad).message == "data[1]: loss_fn_inputs: got 100000, expected anything else"

    def test_forward_only_does_not_fail_the_step(self, engine: FakeEngine, driven: Driven) -> None:
        bad, step = forward_backward("m", 2, [BAD_ROW], forward_only=True), optim("m", 3)
        driven.run(create("m"), forward_backward("m", 1, [11]), bad, step)
        assert driven.failure(bad)
        assert engine.models["m"].weights == ((11,),)

    def test_a_body_that_does_not_parse(self, driven: Driven) -> None:
        bad = operation(ForwardBackward(), "m", 1, body=b"\xff\xff")
        missing = operation(ForwardBackward(), "m", 2, body_path="/nowhere/at/all")
        step = optim("m", 3)
        driven.run(create("m"), bad, missing, step)
        assert driven.failure(bad).category == USER
        assert driven.failure(missing).category == SERVER
        assert driven.failure(step).category == USER


class TestSkips:
    def test_a_skipped_failure_fails_the_step(self, engine: FakeEngine, driven: Driven) -> None:
        skip, step = operation(Skip(failed_forward_backward=True), "m", 1), optim("m", 2)
        driven.run(create("m"), skip, step, forward_backward("m", 3, [11]), optim("m", 4))
        assert driven.result(skip)
        assert driven.failure(step).category == USER
        assert engine.models["m"].weights == ((11,),)

    def test_a_skip_of_something_harmless_only_takes_its_place(self, engine: FakeEngine, driven: Driven) -> None:
        skip = operation(Skip(), "m", 2)
        driven.run(create("m"), optim("m", 3), skip, forward_backward("m", 1, [11]))
        assert engine.models["m"].weights == ((11,),)

    def test_a_skipped_step_clears_what_its_first_life_cleared(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(
            create("m"),
            forward_backward("m", 1, [11], replay=True),
            operation(Skip(failed_forward_backward=True), "m", 2),
            operation(Skip(failed_optim_step=True), "m", 3),
            forward_backward("m", 4, [12]),
            optim("m", 5),
        )
        assert engine.models["m"].weights == ((12,),)


class TestGaps:
    def test_what_waits_too_long_fails_and_names_what_is_missing(self, engine: FakeEngine, driven: Driven) -> None:
        first, third, step = forward_backward("m", 1, [11]), forward_backward("m", 3, [13]), optim("m", 4)
        driven.run(create("m"), first, third, step)
        engine.clock.now += 99.0
        driven.run()
        assert not driven.outcomes(third)
        engine.clock.now += 1.5
        driven.run()
        for op in (third, step):
            assert driven.failure(op).category == USER
            assert "seq_id 2 of model m never arrived within 100 s" in driven.failure(op).message
        fresh, next_step = forward_backward("m", 5, [15]), optim("m", 6)
        driven.run(fresh, next_step)
        assert driven.result(next_step)
        assert engine.models["m"].weights == ((15,),)

    def test_the_step_after_a_gap_fails(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(create("m"), forward_backward("m", 1, [11]), forward_backward("m", 3, [13]))
        engine.clock.now += 101.0
        driven.run()
        step = optim("m", 4)
        driven.run(step)
        assert "seq_id 2 of model m never arrived" in driven.failure(step).message
        assert engine.models["m"].weights == ()

    def test_the_missing_one_is_too_late(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(create("m"), optim("m", 2))
        engine.clock.now += 101.0
        driven.run()
        late = forward_backward("m", 1, [11])
        driven.run(late)
        assert "seq_id: got 1, expected at least 3" in driven.failure(late).message

    def test_siblings_may_arrive_in_any_order_within_the_wait(self, engine: FakeEngine, driven: Driven) -> None:
        parts = [forward_backward("m", n, [n]) for n in range(1, 6)]
        driven.run(create("m"))
        for part in parts[1:]:
            driven.run(part)
            engine.clock.now += 20.0
            driven.run()
        driven.run(parts[0], optim("m", 6))
        assert engine.models["m"].weights == ((1, 2, 3, 4, 5),)

    def test_work_of_a_neighbour_is_no_reason_to_give_up(self, engine: FakeEngine, driven: Driven) -> None:
        slow = FakeEngine("slow", token_s=100.0, clock=engine.clock)
        driven.host.add_engine("slow", slow)
        driven.run(create("n", base_model="slow"), create("m"))
        driven.submit(forward_backward("n", 1, [[5] * 4], base_model="slow"), forward_backward("m", 1, [1]))
        driven.run(optim("m", 2))
        assert engine.models["m"].weights == ((1,),)


class TestReplay:
    def test_starts_where_the_state_ends(self, engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("((1,), (2,))")
        load = operation(LoadState(str(tmp_path), True, LoraConfig(rank=8), next_seq=7), "m")
        driven.run(load, forward_backward("m", 7, [3], replay=True), optim("m", 8, replay=True))
        assert driven.payload(load) == {}
        assert engine.models["m"].weights == ((1,), (2,), (3,))

    def test_what_was_never_recorded_is_settled(self, engine: FakeEngine, driven: Driven) -> None:
        gone = operation(Skip(), "m", 3, replay=True)
        driven.run(create("m"), forward_backward("m", 1, [11], replay=True), gone, optim("m", 4))
        assert driven.result(gone)
        assert engine.models["m"].weights == ()
        driven.run(forward_backward("m", 5, [12]), optim("m", 6))
        assert engine.models["m"].weights == ((12,),)

    def test_leaves_files_alone_and_forward_passes_out(
        self, engine: FakeEngine, driven: Driven, tmp_path: Path
    ) -> None:
        folder = str(tmp_path / "saved")
        ops = [
            forward_backward("m", 1, [11], forward_only=True, replay=True),
            operation(SaveState(folder), "m", 2, replay=True),
            operation(SaveSampler(folder), "m", 3, replay=True),
            operation(SaveState(folder), "m", 4),
        ]
        driven.run(create("m"), *ops[:3])
        assert engine.models["m"].diary == []
        assert not Path(folder).exists()
        driven.run(ops[3])
        assert all(driven.result(op) for op in ops)
        assert Path(folder, "state").exists()


class TestLife:
    def test_a_model_that_cannot_be_made_fails_what_waits_for_it(self, driven: Driven) -> None:
        op, birth = forward_backward("m", 1, [11]), create("m", rank=512)
        driven.run(op, birth)
        assert driven.failure(birth).message == "rank: got 512, expected 1 to 256"
        assert "could not be made" in driven.failure(op).message
        again = create("m")
        driven.run(again)
        assert driven.result(again)

    def test_a_model_nobody_created(self, engine: FakeEngine, driven: Driven) -> None:
        op = forward_backward("ghost", 1, [11])
        driven.run(op)
        engine.clock.now += 31.0
        driven.run()
        assert driven.failure(op).message.startswith("model_id: got 'ghost', expected a model that was created")

    def test_a_second_creation_is_refused(self, driven: Driven) -> None:
        second = create("m")
        driven.run(create("m"), second)
        assert "an id that no live model has" in driven.failure(second).message

    def test_release_frees_the_slot_and_fails_what_waits(self, engine: FakeEngine, driven: Driven) -> None:
        step, release = optim("m", 3), operation(ReleaseModel(), "m")
        driven.run(create("m"), forward_backward("m", 1, [11]), step, release)
        assert driven.result(release)
        assert "was released" in driven.failure(step).message
        assert engine.models == {}
        driven.run(create("m"))
        assert engine.models["m"].weights == ()

    def test_release_in_the_middle_of_an_operation(self, engine: FakeEngine, driven: Driven) -> None:
        big, release = forward_backward("m", 1, list(range(100))), operation(ReleaseModel(), "m")
        driven.submit(create("m"), big)
        for _ in range(3):
            driven.host.poll()
        driven.run(release)
        assert "was released" in driven.failure(big).message
        assert engine.models == {}

    def test_loading_into_a_live_model(self, engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("((7,),)")
        load = operation(LoadState(str(tmp_path), False, LoraConfig(rank=8)), "m", 2)
        broken = operation(LoadState("/nowhere", True, LoraConfig(rank=8)), "m", 5)
        driven.run(
            create("m"), forward_backward("m", 1, [11]), load, forward_backward("m", 3, [12]), optim("m", 4), broken
        )
        assert driven.result(load)
        assert driven.failure(broken).category == USER
        assert engine.models["m"].weights == ((7,), (12,))

    def test_an_unknown_base_model(self, driven: Driven) -> None:
        op = create("m", base_model="other")
        driven.run(op)
        assert driven.failure(op).message == "base_model: got 'other', expected one of base"


class TestGapsUnderTraffic:
    """A client that goes on sending must not put off the end of a gap."""

    def test_the_wait_counts_from_when_the_gap_opened(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(create("m"))
        behind = forward_backward("m", 2, [12])
        driven.run(behind)
        for seq in range(3, 7):
            engine.clock.now += 30.0
            driven.run(forward_backward("m", seq, [seq]))
        assert "seq_id 1 of model m never arrived within 100 s" in driven.failure(behind).message

    def test_a_gap_that_fills_gives_the_next_one_its_whole_time(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(create("m"))
        later = forward_backward("m", 4, [14])
        driven.run(forward_backward("m", 2, [12]), later)
        engine.clock.now += 90.0
        driven.run(forward_backward("m", 1, [11]))
        engine.clock.now += 90.0
        driven.run(forward_backward("m", 5, [15]))
        assert not driven.outcomes(later)
        engine.clock.now += 20.0
        driven.run()
        assert "seq_id 3" in driven.failure(later).message
