"""Recovery points: taken between steps only, and honest about what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import BAD_ROW, FakeEngine
from tests.support.operations import Driven, create, forward_backward, operation, optim
from tinsmith.types.engine_messages.operations import Operation, ReleaseModel, SaveRecoveryPoint, Skip


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def driven(engine: FakeEngine) -> Driven:
    return Driven(engine, clock=engine.clock, gap_timeout_s=100.0)


def point(folder: Path, after_seq: int) -> Operation:
    return operation(SaveRecoveryPoint(str(folder), after_seq), "m")


def test_waits_for_its_place_in_the_order(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    op = point(tmp_path / "p", 2)
    driven.run(create("m"), op, forward_backward("m", 1, [11]))
    assert not driven.outcomes(op)
    driven.run(optim("m", 2))
    assert driven.payload(op) == {"size_bytes": len("((11,),)"), "seq_id": 2}
    assert (tmp_path / "p" / "state").read_text() == "((11,),)"


def test_comes_before_the_next_gradients(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    op = point(tmp_path / "p", 2)
    steps = [forward_backward("m", 1, [11]), optim("m", 2), forward_backward("m", 3, [12]), optim("m", 4)]
    driven.run(create("m"), op, *steps)
    assert driven.payload(op)["seq_id"] == 2
    assert engine.models["m"].weights == ((11,), (12,))


def test_says_when_it_holds_more_than_was_asked_for(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    driven.run(create("m"), forward_backward("m", 1, [11]), optim("m", 2), forward_backward("m", 3, [12]))
    op = point(tmp_path / "p", 2)
    driven.run(op)
    assert not driven.outcomes(op), "gradients are pending"
    driven.run(forward_backward("m", 4, [13]))
    assert not driven.outcomes(op)
    driven.run(optim("m", 5), forward_backward("m", 6, [14]))
    assert driven.payload(op)["seq_id"] == 5
    assert (tmp_path / "p" / "state").read_text() == "((11,), (12, 13))"


def test_a_forward_pass_is_no_gradient(driven: Driven, tmp_path: Path) -> None:
    op = point(tmp_path / "p", 1)
    driven.run(create("m"), forward_backward("m", 1, [11], forward_only=True), op)
    assert driven.payload(op)["seq_id"] == 1


def test_waits_out_a_step_that_is_bound_to_fail(driven: Driven, tmp_path: Path) -> None:
    op = point(tmp_path / "p", 1)
    driven.run(create("m"), operation(Skip(failed_forward_backward=True), "m", 1), op)
    assert not driven.outcomes(op), "a replay from here would not know that the next step fails"
    driven.run(optim("m", 2))
    assert driven.payload(op)["seq_id"] == 2


def test_a_failed_step_clears_the_way(driven: Driven, tmp_path: Path) -> None:
    op, step = point(tmp_path / "p", 3), optim("m", 3)
    driven.run(create("m"), forward_backward("m", 1, [11]), forward_backward("m", 2, [BAD_ROW]), step, op)
    assert driven.failure(step)
    assert driven.payload(op)["seq_id"] == 3
    assert (tmp_path / "p" / "state").read_text() == "()"


def test_that_never_becomes_possible_does_not_time_out_but_ends_with_its_model(
    engine: FakeEngine, driven: Driven, tmp_path: Path
) -> None:
    op = point(tmp_path / "p", 9)
    driven.run(create("m"), op)
    engine.clock.now += 1000.0
    driven.run()
    assert not driven.outcomes(op)
    driven.run(operation(ReleaseModel(), "m"))
    assert "was released" in driven.failure(op).message


def test_a_run_does_not_pay_for_its_recovery_points(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    """Charged like a save of its own, one of 50 ms among runs whose steps take 1 ms would cost it fifty rounds."""
    save_state, step = engine.save_state, engine.optim_step

    def slow_save(model_id: str, folder: str) -> int:
        engine.clock.now += 50.0
        return save_state(model_id, folder)

    def timed_step(model_id: str, *args: object) -> dict[str, float]:
        engine.clock.now += 1.0
        return step(model_id, *args)  # pyright: ignore[reportArgumentType]

    engine.save_state, engine.optim_step = slow_save, timed_step
    runs = ["m", "n", "o"]
    driven.run(*map(create, runs), point(tmp_path / "p", 0))
    order: list[str] = []
    engine.optim_step = lambda model_id, *args: order.append(model_id) or timed_step(model_id, *args)
    steps = [optim(run, seq) for seq in range(1, 11) for run in runs]
    driven.run(*steps)
    assert order.count("m") == 10
    # Its last step is in the last round, as everybody's.
    assert sorted(order[-3:]) == runs
    assert sorted(order[:3]) == runs
