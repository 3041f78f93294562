"""The thread that writes snapshots: it outlives whatever goes wrong with one of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tinsmith.scheduler.flusher import Flush, Flusher


class Told:
    """What the host was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, bool] = {}
        self._changed = threading.Condition()

    def note(self, flush: Flush, written: bool) -> None:
        with self._changed:
            self.outcomes[flush.sampler_id] = written
            self._changed.notify_all()
        if flush.sampler_id == "untold":
            raise RuntimeError("the host is confused")

    def wait_for(self, sampler_id: str) -> bool:
        with self._changed:
            assert self._changed.wait_for(lambda: sampler_id in self.outcomes, 10)
            return self.outcomes[sampler_id]


def flush(sampler_id: str, folder: Path, *errors: Exception) -> Flush:
    failures = iter(errors)

    def write() -> None:
        for error in failures:
            raise error
        (folder / sampler_id).mkdir()

    return Flush(f"r-{sampler_id}", sampler_id, str(folder / sampler_id), write)


def full(times: int) -> list[OSError]:
    return [OSError(28, "No space left on device")] * times


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.scheduler.flusher._FIRST_RETRY_S", 0.01)


def test_an_outcome_that_cannot_be_told_costs_that_one(tmp_path: Path) -> None:
    told = Told()
    flusher = Flusher(told.note)
    flusher.add(flush("untold", tmp_path))
    flusher.add(flush("next", tmp_path))
    assert told.wait_for("next")
    flusher.close(5)


@pytest.mark.usefixtures("quick")
def test_each_is_tried_again_in_its_own_time(tmp_path: Path) -> None:
    told = Told()
    flusher = Flusher(told.note)
    for number, errors in enumerate((3, 0, 1, 5, 2)):
        flusher.add(flush(f"s{number}", tmp_path, *full(errors)))
    assert all(told.wait_for(f"s{number}") for number in range(5))
    assert {path.name for path in tmp_path.iterdir()} == {f"s{number}" for number in range(5)}
    flusher.close(5)


def test_one_that_is_let_go_of_is_told_at_once_however_late_its_turn(tmp_path: Path) -> None:
    told = Told()
    flusher = Flusher(told.note)
    flusher.add(flush("gone", tmp_path, *full(10**6)))
    flusher.add(flush("good", tmp_path))
    assert told.wait_for("good")
    flusher.abandon("gone")
    assert not told.wait_for("gone")
    flusher.close(5)


def test_the_end_writes_what_is_queued_and_leaves_the_rest(tmp_path: Path) -> None:
    told = Told()
    flusher = Flusher(told.note)
    flusher.add(flush("full", tmp_path, *full(10**6)))
    for number in range(20):
        flusher.add(flush(f"s{number}", tmp_path))
    flusher.close(10)
    assert told.outcomes == {"full": False} | {f"s{number}": True for number in range(20)}


def test_a_snapshot_is_written_after_its_client_was_answered_and_at_the_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.scheduler.flusher._CALM_S", 3600.0)
    told = Told()
    flusher = Flusher(told.note)
    for name in ("a", "b"):
        flusher.add(flush(name, tmp_path))
    assert not told.outcomes
    flusher.close(10)
    assert told.outcomes == {"a": True, "b": True}
