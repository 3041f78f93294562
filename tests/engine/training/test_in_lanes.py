"""Work on several threads at once: all of it is done, in whatever number, and failures are told once all has ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from tinsmith.engine.training.lanes import in_lanes


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("free", [1, 2, 3, 9])
def test_all_lanes_are_run_whatever_runs_at_once(threads: int, free: int) -> None:
    torch.set_num_threads(threads)
    assert in_lanes(5, lambda lane: lane * lane, free) == [0, 1, 4, 9, 16]
    assert torch.get_num_threads() == threads


def test_lanes_run_at_once_and_share_torchs_threads() -> None:
    torch.set_num_threads(4)
    together = threading.Barrier(2)

    def work(lane: int) -> tuple[int, int]:
        together.wait(60)  # which one alone would never pass
        return threading.get_ident(), torch.get_num_threads()

    (one, its), (other, others) = in_lanes(2, work, 4)
    assert one != other
    assert (its, others) == (2, 2)
    assert torch.get_num_threads() == 4


def test_the_first_failure_is_raised_after_all_lanes_have_ended() -> None:
    torch.set_num_threads(2)
    ended: list[int] = []

    def work(lane: int) -> None:
        if lane in (0, 3):
            raise ValueError(f"lane {lane}")
        ended.append(lane)

    with pytest.raises(ValueError, match="lane 0"):
        in_lanes(5, work, 2)
    assert sorted(ended) == [1, 2, 4]
    assert torch.get_num_threads() == 2


def test_two_engines_at_once_both_get_done() -> None:
    """Each has a thread of its own, and the lanes' threads are those of the process."""
    results: dict[int, list[int]] = {}

    def engine(number: int) -> None:
        for _ in range(50):
            results[number] = in_lanes(7, lambda lane: lane + number, 4)

    engines = [threading.Thread(target=engine, args=(number,)) for number in range(6)]
    for each in engines:
        each.start()
    for each in engines:
        each.join(60)
    assert results == {number: [lane + number for lane in range(7)] for number in range(6)}
