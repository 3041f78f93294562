"""The same computation on several numbers of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

T = TypeVar("T")


def on_threads(numbers: Iterable[int], run: Callable[[], T]) -> list[T]:
    """Return what `run` gives with each number of torch's threads, which are as before afterwards."""
    before, found = torch.get_num_threads(), []
    try:
        for number in numbers:
            torch.set_num_threads(number)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found
