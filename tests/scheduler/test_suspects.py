"""Operations with which a process was lost: what is told of what runs, and in which company they are tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import BROKEN_DEVICE, CRASH_PASS, FakeEngine
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.scheduler.at_work import AtWork
from tinsmith.scheduler.failures import EngineBroken
from tinsmith.types.engine_messages.operations import Operation, TakeSnapshot


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_tokens_per_pass=100)


@pytest.fixture
def driven(engine: FakeEngine) -> Driven:
    driven = Driven(engine, clock=engine.clock, max_decode_batch=8)
    driven.run(*[create(f"m{n}") for n in range(6)], load_sampler("s"))
    driven.begun.clear()
    return driven


def ids(*ops: Operation) -> list[str]:
    return [op.request_id for op in ops]


def passes(engine: FakeEngine) -> list[list[str]]:
    """Return the models in each pass."""
    return [sorted({row.model_id for row in rows}) for rows in engine.passes]


class TestWhatIsTold:
    def test_a_pass_and_a_step_and_nothing_afterwards(self, driven: Driven) -> None:
        first, second, step = forward_backward("m0", 1, [1]), forward_backward("m1", 1, [2]), optim("m0", 2)
        driven.run(first, second, step)
        assert ids(first, second) in driven.begun
        assert ids(step) in driven.begun
        assert driven.begun[-1] == []

    def test_a_request_that_is_read_is_told_before(self, driven: Driven) -> None:
        op = operation(forward_backward("m0", 1, [1]).work, "m0", 1, body=b"not a request")
        driven.run(op)
        assert ids(op) in driven.begun
        assert driven.failure(op)

    def test_a_step_of_the_sampler_names_whom_it_serves(self, engine: FakeEngine, driven: Driven) -> None:
        ops = [sample("s", [n]) for n in range(10)]
        driven.run(*ops)
        # The fake sampler serves eight at once; all were handed to it.
        assert ids(*ops[:8]) in driven.begun
        assert ids(*ops[8:]) in driven.begun

    def test_what_ends_the_host_is_left_standing(self, driven: Driven) -> None:
        op = forward_backward("m0", 1, [BROKEN_DEVICE])
        with pytest.raises(EngineBroken):
            driven.run(op)
        assert driven.begun[-1] == ids(op)

    def test_a_snapshot_is_told_while_it_is_written(self, engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
        op = operation(TakeSnapshot("x", str(tmp_path / "x")), "m0", 1)
        while_writing: list[list[str]] = []
        engine.write_hook = lambda sampler_id: while_writing.append(driven.begun[-1])
        driven.run(op)
        driven.host.close()
        assert op.request_id in while_writing[0]
        assert driven.begun[-1] == []

    def test_two_threads_are_told_as_one(self) -> None:
        told: list[list[str]] = []
        at_work = AtWork(lambda ids: told.append(list(ids)))
        at_work.begin(["a", "b"])
        at_work.write(["w"])
        at_work.begin([])
        at_work.write([])
        assert told == [["a", "b"], ["a", "b", "w"], ["w"], []]


class TestCompany:
    def test_a_suspect_has_a_pass_to_itself(self, engine: FakeEngine, driven: Driven) -> None:
        ops = [forward_backward(f"m{n}", 1, [n + 1], company=1 if n == 2 else None) for n in range(4)]
        driven.run(*ops)
        assert sorted(passes(engine), key=len) == [["m2"], ["m0", "m1", "m3"]]
        assert all(driven.result(op) for op in ops)

    def test_companies_of_a_few(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(*[forward_backward(f"m{n}", 1, [n + 1], company=2) for n in range(6)])
        assert [len(models) for models in passes(engine)] == [2, 2, 2]

    def test_rows_of_one_suspect_stay_together(self, engine: FakeEngine, driven: Driven) -> None:
        driven.run(forward_backward("m0", 1, [1, 2, 3], company=1), forward_backward("m1", 1, [4]))
        assert sorted(len(rows) for rows in engine.passes) == [1, 3]

    def test_suspected_samples_come_first_and_nobody_beside_them(self, driven: Driven) -> None:
        innocent = [sample("s", [n], max_tokens=4) for n in range(3)]
        driven.submit(*innocent)
        for _ in range(2):
            driven.host.poll()
        suspects = [sample("s", [10 + n], max_tokens=2, company=2) for n in range(4)]
        late = sample("s", [20], max_tokens=1)
        driven.begun.clear()
        driven.run(*suspects, late)
        steps = [set(begun) for begun in driven.begun if len(begun) > 1]
        assert steps[0] == set(ids(*suspects[:2]))
        for step in steps:
            assert step <= set(ids(*suspects)) or step <= set(ids(*innocent, late))
            assert len(step & set(ids(*suspects))) <= 2
        # Whoever had to begin again draws what it would have drawn.
        other = Driven(FakeEngine())
        other.run(load_sampler("s"), *innocent)
        for op in innocent:
            assert driven.response(op) == other.response(op)
        assert all(driven.response(op) for op in (*suspects, late))

    def test_a_suspect_whose_sampler_is_still_to_come_holds_up_nobody(self, driven: Driven) -> None:
        suspect, innocent = sample("later", company=1), sample("s")
        driven.run(suspect, innocent)
        assert driven.response(innocent)
        assert not driven.outcomes(suspect)
        driven.run(load_sampler("later"))
        assert driven.response(suspect)

    def test_a_suspect_can_be_cancelled(self, driven: Driven) -> None:
        suspect, other = sample("s", max_tokens=3, company=1), sample("s", max_tokens=3, company=1)
        driven.submit(suspect, other)
        driven.host.cancel(other.request_id)
        driven.run()
        assert driven.response(suspect)
        assert driven.failure(other).message == "the request was cancelled"
        innocent = sample("s")
        driven.run(innocent)
        assert driven.response(innocent)

    def test_suspects_whose_step_raises_are_halved_like_all(self, driven: Driven) -> None:
        bad, good = sample("s", [CRASH_PASS], company=8), sample("s", [1], company=8)
        driven.run(bad, good)
        assert driven.failure(bad)
        assert driven.response(good)

    def test_a_suspected_snapshot_is_written_before_anything_else_runs(
        self, engine: FakeEngine, driven: Driven, tmp_path: Path
    ) -> None:
        op = operation(TakeSnapshot("x", str(tmp_path / "x")), "m0", 1, company=1)
        while_writing: list[list[str]] = []
        engine.write_hook = lambda sampler_id: while_writing.append(driven.begun[-1])
        driven.run(op)
        assert while_writing == [ids(op)]
        assert driven.flushed() == ids(op)

    def test_a_suspected_snapshot_for_which_there_is_no_room_is_tried_again(
        self, engine: FakeEngine, driven: Driven, tmp_path: Path
    ) -> None:
        op = operation(TakeSnapshot("x", str(tmp_path / "x")), "m0", 1, company=1)
        failures = iter([OSError(28, "No space left on device")])

        def fail_once(sampler_id: str) -> None:
            for error in failures:
                raise error

        engine.write_hook = fail_once
        driven.run(op)
        driven.host.close()
        assert driven.flushed() == ids(op)
