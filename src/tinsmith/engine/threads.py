"""How many CPU threads the engines of a process use: as many as there are free cores, as far as the model has work.

A training pass is cut into lanes, which run side by side (`training/lanes.py`), whatever the model's size. Beyond that
a product is cut over threads: of a large model only, because in a small one handing over takes as long as computing.
Where another process has one of the cores two threads are slower than one, because each of the hundreds of products of
a pass waits for the slower half of it. So the numbers follow the load.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from tinsmith.engine.cores import Use, cores, cores_in_sight, use_now

# So much of a model is worth one thread more: of less, handing over a product takes longer than computing it. On two
# cores a model of 5M parameters decodes no faster with two threads, one of 0.11B by a quarter; there were no machines
# with more cores to measure on.
_PARAMETERS_PER_THREAD = 10_000_000
# How often the load is looked at, seconds; the system counts in hundredths.
_LOOK_EVERY_S = 1.0


def free_cores(cores: int, others: float) -> int:
    """Return how many cores are there for this process, one at least.

    Args:
        cores: that it may use.
        others: how many of these other processes keep busy.
    """
    # Half a core that is free counts as one: beside a client and an API process no core is ever quite idle.
    return max(1, min(cores, int(cores - others + 0.5)))


def threads_for(parameters: int, free: int) -> int:
    """Return over how many threads a product of a model of so many parameters is cut where so many cores are free."""
    return max(1, min(parameters // _PARAMETERS_PER_THREAD, free))


class Threads:
    """The threads of this process, which all of its engines share.

    Args:
        most: how many cores the process may use.
        use: tells the processor time up to now.
        clock: seconds, monotonic; the one of `use`.
        spare: cores that `use` is about beyond those: a container's quota may be 4 of 64. Others take them first.

    Attributes:
        free: how many cores are free now: lanes that may run at once.
        steady: how many there would be with nobody else on the machine. What changes the order of a sum follows this
            number and not the load: a run that is repeated, or replayed after a loss, has to find the same bits.
    """

    def __init__(
        self, most: int, use: Callable[[], Use], clock: Callable[[], float] = time.monotonic, spare: int = 0
    ) -> None:
        self._most = most
        self._use = use
        self._clock = clock
        self._spare = spare
        self._parameters = 0
        self._chosen: int | None = None
        self.free = self.steady = 1
        # From here to the first look a model is loaded, which is long enough to see who else is there.
        self._last = use()

    def settle(self, parameters: int, chosen: int | None) -> int:
        """Set torch's threads for a base model that was loaded, and return their number; the largest model decides.

        Args:
            parameters: of the model.
            chosen: by the settings; None leaves it to the model's size and the load.
        """
        self._parameters = max(self._parameters, parameters)
        self._chosen = chosen
        self.steady = chosen or self._most
        return self._set()

    def follow_load(self) -> None:
        """Set the threads anew, unless that was done within the last second.

        Called by who computes, before a pass and after it: else a rest between two passes would count as part of one.
        """
        if self._chosen is None and self._most > 1 and self._clock() - self._last.at >= _LOOK_EVERY_S:
            self._set()

    def _set(self) -> int:
        if self._chosen is not None:
            self.free = threads = self._chosen
        else:
            now = self._use()
            others = max(0.0, now.others_since(self._last) - self._spare)
            self.free = free_cores(self._most, others)
            threads = threads_for(self._parameters, self.free)
            self._last = now
        torch.set_num_threads(threads)
        return threads


THREADS = Threads(cores(), use_now, spare=max(0, cores_in_sight() - cores()))
