"""How many CPU threads the engines of a process use."""

from __future__ import annotations

import torch

# A model below this many parameters computes on one thread: its matmuls are shorter than a hand-over between threads.
# The demo's 150 steps take 24 s on one thread of an idle machine and 13 s on two; on a busy one still 25 s on one, but
# many minutes on two, which wait for each other.
_SMALL = 20_000_000
_default = torch.get_num_threads()
_largest = 0


def use_threads(parameters: int, chosen: int | None) -> int:
    """Set the threads for a base model that was loaded, and return their number; the largest model decides.

    Args:
        parameters: of the model.
        chosen: by the settings; None leaves it to the model's size.
    """
    global _largest
    _largest = max(_largest, parameters)
    threads = chosen or (1 if _largest < _SMALL else _default)
    torch.set_num_threads(threads)
    return threads
