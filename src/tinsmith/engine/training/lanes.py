"""Micro-batches on several threads at once, each with its share of torch's threads.

A pass of a small model is hundreds of short products. Cut over two threads, every one of them waits for the slower
half; two micro-batches side by side wait for each other once, at the end. torch computes without Python's lock, so
threads of one process do.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

# Of fewer tokens a lane's products are so short that Python, which runs on one thread at a time, is what takes long.
_LANE_TOKENS = 512


def lanes_for(tokens: int, longest: int, budget: int) -> int:
    """Return how many micro-batches to compute at once, at most one for each of torch's threads.

    Args:
        tokens: of the pass.
        longest: tokens of the largest part that cannot be cut.
        budget: tokens that may be computed at once, for the sake of memory.
    """
    return max(1, min(torch.get_num_threads(), tokens // _LANE_TOKENS, budget // max(longest, _LANE_TOKENS)))


def in_lanes(lanes: int, work: Callable[[int], T]) -> list[T]:
    """Call `work` with 0 ... lanes - 1, each on a thread of its own; return the results in that order.

    Raises:
        Exception: the first lane's that failed, after all have ended.
    """
    if lanes == 1:
        return [work(0)]
    threads = torch.get_num_threads()

    def with_share(lane: int) -> T:
        # The number is a property of the thread, and a new thread has that of the machine.
        torch.set_num_threads(max(1, threads // lanes))
        return work(lane)

    try:
        with ThreadPoolExecutor(lanes - 1, thread_name_prefix="lane") as pool:
            others = [pool.submit(with_share, lane) for lane in range(1, lanes)]
            first = with_share(0)
            return [first, *(other.result() for other in others)]
    finally:
        torch.set_num_threads(threads)
