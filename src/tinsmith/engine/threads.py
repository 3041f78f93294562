"""How many CPU threads the engines of a process use: as many as there are free cores, as far as the model has work.

A training pass is cut into lanes, which run side by side (`training/lanes.py`), whatever the model's size. Beyond that
each operation is cut over threads, in training those of a large model only. Where another process has one of the cores
two threads are slower than one, because each of the hundreds of operations of a pass waits for the slower half of it.
So the numbers follow the load.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

import torch

from tinsmith.engine.cores import Use, cores, cores_in_sight, use_now


class Grain(IntEnum):
    """Parameters of a model that are worth one thread more, by what a pass does; there were no machines with more than
    two cores to measure on.
    """

    # What does not pay for lanes of its own is small, and has the same bits whatever the load with one thread.
    TRAINING = 10_000_000
    # A step of many sequences gains from smaller models on, and of one sequence it loses nothing. But kernels treat the
    # ends of each thread's part with other instructions, so that a logprob's last bits follow the load: for a tenth of
    # the time the smallest models need not have that.
    SAMPLING = 2_500_000
    # Whatever the threads, its bits are the same; adapters have a fifth of these parameters at usual ranks.
    OPTIMIZER = 500_000


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


def threads_for(parameters: int, free: int, grain: Grain) -> int:
    """Return over how many threads operations of a model of so many parameters are cut where so many cores are free."""
    return max(1, min(parameters // grain, free))


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
        self._look()
        return self._set(Grain.TRAINING)

    def follow_load(self, grain: Grain) -> None:
        """Set the threads for a pass, by a look at the load unless there was one within the last second.

        Called by who computes, before a pass and after it: else a rest between two passes would count as part of one.

        Args:
            grain: of the pass.
        """
        if self._chosen is None and self._most > 1 and self._clock() - self._last.at >= _LOOK_EVERY_S:
            self._look()
        self._set(grain)

    def _look(self) -> None:
        if self._chosen is not None:
            self.free = self._chosen
            return
        now = self._use()
        others = max(0.0, now.others_since(self._last) - self._spare)
        self.free = free_cores(self._most, others)
        self._last = now

    def _set(self, grain: Grain) -> int:
        threads = self._chosen or threads_for(self._parameters, self.free, grain)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        return threads


THREADS = Threads(cores(), use_now, spare=max(0, cores_in_sight() - cores()))
