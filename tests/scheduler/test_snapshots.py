"""Snapshots: exact weights, written in the background, released only when written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import FakeEngine, fake_token
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.types.engine_messages.operations import Operation, ReleaseSampler, TakeSnapshot


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def driven(engine: FakeEngine) -> Driven:
    return Driven(engine, clock=engine.clock)


def snapshot(seq_id: int, sampler_id: str, folder: Path, **fields: bool) -> Operation:
    return operation(TakeSnapshot(sampler_id, str(folder / sampler_id)), "m", seq_id, **fields)


def wait_until_flushed(driven: Driven, op: Operation) -> None:
    deadline = time.monotonic() + 10
    while op.request_id not in driven.flushed():
        assert time.monotonic() < deadline, "never flushed"
        driven.run()
        time.sleep(0.005)


@pytest.mark.row(28)
def test_a_snapshot_sees_the_weights_after_all_before_it(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    early, late = snapshot(3, "early", tmp_path), snapshot(6, "late", tmp_path)
    first, second = sample("early", seed=7), sample("late", seed=7)
    steps = [forward_backward("m", 1, [11]), optim("m", 2), forward_backward("m", 4, [12]), optim("m", 5)]
    driven.run(late, second, early, first, *reversed(steps), create("m"))
    assert driven.response(first).sequences[0].tokens == [fake_token(((11,),), 7, 0)]
    assert driven.response(second).sequences[0].tokens == [fake_token(((11,), (12,)), 7, 0)]


def test_flushed_comes_when_the_files_are_there(driven: Driven, tmp_path: Path) -> None:
    op = snapshot(1, "s", tmp_path)
    driven.run(create("m"), op)
    assert driven.payload(op) == {}
    wait_until_flushed(driven, op)
    assert (tmp_path / "s" / "state").read_text() == "()"
    assert driven.flushed() == [op.request_id]


def test_training_does_not_wait_for_the_disk(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    gate = threading.Event()
    engine.write_hook = lambda sampler_id: _wait(gate)
    op, step, draw = snapshot(1, "s", tmp_path), optim("m", 2), sample("s")
    driven.run(create("m"), op, step, draw)
    assert driven.result(op)
    assert driven.result(step)
    assert driven.response(draw)
    assert driven.flushed() == []
    gate.set()
    wait_until_flushed(driven, op)


def _wait(gate: threading.Event) -> None:
    assert gate.wait(10)


def test_a_sampler_is_released_only_when_it_is_written(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    gate = threading.Event()
    engine.write_hook = lambda sampler_id: _wait(gate)
    op, release = snapshot(1, "s", tmp_path), operation(ReleaseSampler("s"))
    driven.run(create("m"), op, release)
    assert not driven.outcomes(release)
    assert "s" in engine.samplers
    gate.set()
    wait_until_flushed(driven, op)
    driven.run()
    assert driven.result(release)
    assert engine.samplers == {}


@pytest.mark.parametrize("early_release", [True, False])
def test_no_sample_begins_on_a_sampler_that_is_about_to_go(
    engine: FakeEngine, driven: Driven, tmp_path: Path, early_release: bool
) -> None:
    gate, writing = threading.Event(), threading.Event()

    def hold(sampler_id: str) -> None:
        writing.set()
        _wait(gate)

    engine.write_hook = hold
    op, late = snapshot(1, "s", tmp_path), sample("s")
    release = operation(ReleaseSampler("s"))
    if early_release:
        driven.run(create("m"), op, release)
    else:
        driven.run(create("m"), op)
        assert writing.wait(10)  # a release that comes before the writing begins spares it
        driven.run(release)
    driven.run(late)
    assert engine.sampler.added == []
    gate.set()
    wait_until_flushed(driven, op)
    engine.clock.now += 31.0
    driven.run()
    assert "sampler_id: got 's'" in driven.failure(late).message


def test_a_release_waits_for_a_snapshot_that_is_still_to_come(
    engine: FakeEngine, driven: Driven, tmp_path: Path
) -> None:
    op, release = snapshot(2, "s", tmp_path), operation(ReleaseSampler("s"))
    driven.run(create("m"), op, release)
    assert not driven.outcomes(release)
    driven.run(forward_backward("m", 1, [11]))
    wait_until_flushed(driven, op)
    driven.run()
    assert driven.result(release)
    assert engine.samplers == {}


def test_a_full_disk_is_tried_again(
    engine: FakeEngine, driven: Driven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.scheduler.flusher._FIRST_RETRY_S", 0.01)
    failures = iter([OSError(28, "No space left on device")] * 2)

    def full(sampler_id: str) -> None:
        for error in failures:
            raise error

    engine.write_hook = full
    op = snapshot(1, "s", tmp_path)
    driven.run(create("m"), op)
    wait_until_flushed(driven, op)
    assert (tmp_path / "s" / "state").exists()


def test_one_that_cannot_be_written_does_not_keep_others_from_the_disk(
    engine: FakeEngine, driven: Driven, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def cursed(sampler_id: str) -> None:
        if sampler_id == "cursed":
            raise OSError(36, "File name too long")

    engine.write_hook = cursed
    first, second, third = (snapshot(seq, name, tmp_path) for seq, name in enumerate(("cursed", "a", "b"), 1))
    driven.run(create("m"), first, second, third)
    for op in (second, third):
        wait_until_flushed(driven, op)
    assert "sampler cursed could not be written" in caplog.text


def test_a_name_that_no_file_system_takes_ends_no_thread(
    engine: FakeEngine, driven: Driven, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driven.run(create("m"), snapshot(1, "n" * 300, tmp_path), good := snapshot(2, "s", tmp_path))
    wait_until_flushed(driven, good)
    assert "could not be written" in caplog.text


def test_what_cannot_be_written_is_let_go_on_release(engine: FakeEngine, driven: Driven, tmp_path: Path) -> None:
    def full(sampler_id: str) -> None:
        raise OSError(28, "No space left on device")

    engine.write_hook = full
    op, release = snapshot(1, "s", tmp_path), operation(ReleaseSampler("s"))
    driven.run(create("m"), op)
    driven.run(release)
    deadline = time.monotonic() + 10
    while not driven.outcomes(release):
        assert time.monotonic() < deadline
        driven.run()
        time.sleep(0.005)
    assert driven.flushed() == []
    assert engine.samplers == {}


def test_a_folder_that_goes_away_with_its_session_is_no_fault(
    engine: FakeEngine,
    driven: Driven,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tinsmith.scheduler.flusher._FIRST_RETRY_S", 0.2)
    tried = threading.Event()

    def removed(sampler_id: str) -> None:
        tried.set()
        raise FileNotFoundError(2, "No such file or directory")

    engine.write_hook = removed
    op, release = snapshot(1, "s", tmp_path), operation(ReleaseSampler("s"))
    driven.run(create("m"), op)
    assert tried.wait(10)
    driven.run(release)
    deadline = time.monotonic() + 10
    while not driven.outcomes(release):
        assert time.monotonic() < deadline
        driven.run()
        time.sleep(0.005)
    assert driven.flushed() == []
    assert caplog.text == ""


def test_a_replayed_snapshot_that_is_on_disk_is_not_written_again(
    engine: FakeEngine, driven: Driven, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "state").write_text("((9,),)")
    op, load = snapshot(1, "s", tmp_path, replay=True), load_sampler("s", str(tmp_path / "s"))
    driven.run(load)
    driven.run(create("m"), op)
    wait_until_flushed(driven, op)
    assert driven.result(load)
    assert driven.result(op)
    assert engine.samplers == {"s": ((9,),)}
    assert (tmp_path / "s" / "state").read_text() == "((9,),)"
