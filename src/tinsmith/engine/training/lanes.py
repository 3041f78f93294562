"""Parts of a pass on several threads at once, each with its share of torch's threads.

A pass of a small model is hundreds of short products. Cut over two threads, every one of them waits for the slower
half; two parts of the pass side by side wait for each other once, at the end. torch computes without Python's lock, so
threads of one process do.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from tinsmith.engine.cores import cores_in_sight

T = TypeVar("T")

# They are kept: a pass of few tokens is over in little more time than a new thread takes to start.
_POOL = ThreadPoolExecutor(cores_in_sight(), thread_name_prefix="lane")


def in_lanes(lanes: int, work: Callable[[int], T], free: int) -> list[T]:
    """Call `work` with 0 ... lanes - 1; return the results in that order.

    Args:
        lanes: how many there are.
        work: takes the number of a lane.
        free: cores that are free: so many lanes run at once, the first of them on this thread, and share torch's
            threads.

    Raises:
        Exception: the first lane's that failed, after all have ended.
    """
    at_once = min(lanes, free)
    if at_once == 1:
        return [work(lane) for lane in range(lanes)]
    threads = torch.get_num_threads()
    share = max(1, min(threads, free // at_once))
    # Whoever is ready takes the next one.
    numbers = iter(range(lanes))
    results: dict[int, T] = {}
    failures: dict[int, Exception] = {}

    def take_turns() -> None:
        # The number is a property of the thread.
        torch.set_num_threads(share)
        for lane in numbers:
            try:
                results[lane] = work(lane)
            except Exception as error:
                failures[lane] = error

    others = [_POOL.submit(take_turns) for _ in range(at_once - 1)]
    try:
        take_turns()
    finally:
        for other in others:
            other.result()
        torch.set_num_threads(threads)
    if failures:
        raise failures[min(failures)]
    return [results[lane] for lane in range(lanes)]
