"""Micro-batches on several threads at once, each with its share of torch's threads.

A pass of a small model is hundreds of short products. Cut over two threads, every one of them waits for the slower
half; two micro-batches side by side wait for each other once, at the end. torch computes without Python's lock, so
threads of one process do. How a pass is cut does not follow the load, only how many of its lanes run at once: so that
it gives the same bits on a busy machine and on an idle one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

# Of fewer tokens a lane's products are so short that Python, which runs on one thread at a time, is what takes long.
_LANE_TOKENS = 512


def lanes_for(tokens: int, longest: int, budget: int, most: int) -> int:
    """Return into how many lanes a pass is cut.

    Args:
        tokens: of the pass.
        longest: tokens of the largest part that cannot be cut.
        budget: tokens that may be computed at once, for the sake of memory.
        most: lanes that may be wanted at once.
    """
    return max(1, min(most, tokens // _LANE_TOKENS, budget // max(longest, _LANE_TOKENS)))


def in_lanes(lanes: int, work: Callable[[int], T], at_once: int) -> list[T]:
    """Call `work` with 0 ... lanes - 1; return the results in that order.

    Args:
        lanes: how many there are.
        work: takes the number of a lane.
        at_once: how many may run at once; they share torch's threads.

    Raises:
        Exception: the first lane's that failed, after all have ended.
    """
    at_once = min(lanes, at_once)
    if at_once == 1:
        return [work(lane) for lane in range(lanes)]
    share = max(1, torch.get_num_threads() // at_once)

    def with_share(lane: int) -> T:
        # The number is a property of the thread, and a new thread has that of the machine.
        torch.set_num_threads(share)
        return work(lane)

    with ThreadPoolExecutor(at_once, thread_name_prefix="lane") as pool:
        running = [pool.submit(with_share, lane) for lane in range(lanes)]
    return [lane.result() for lane in running]
