"""How many CPU threads the engines of a process use: as many as there are free cores, as far as the model has work.

Two threads on two idle cores make a training step of a model of 5M parameters 1.5 times as fast. Where another process
has one of the cores they are slower than one thread, because each of the hundreds of products of a pass waits for the
slower half of it. So the number follows the load.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from tinsmith.engine.cores import Use, cores, cores_in_sight, use_now

# So much of a model is worth one thread more: of less, handing over a product takes longer than computing it. Two at
# least, which pay on every model that was measured; there were no machines with more cores to measure on.
_PARAMETERS_PER_THREAD = 10_000_000
_ALWAYS_WORTH = 2
# How often the load is looked at, seconds; the system counts in hundredths.
_LOOK_EVERY_S = 1.0


def threads_for(parameters: int, cores: int, others: float) -> int:
    """Return how many threads a model of so many parameters has a use for.

    Args:
        parameters: of the model.
        cores: that this process may use.
        others: how many of these other processes keep busy.
    """
    worth = max(_ALWAYS_WORTH, parameters // _PARAMETERS_PER_THREAD)
    # Half a core that is free counts as one: beside a client and an API process no core is ever quite idle.
    free = int(cores - others + 0.5)
    return max(1, min(worth, cores, free))


class Threads:
    """The threads of this process, which all of its engines share.

    Args:
        most: how many cores the process may use.
        use: tells the processor time up to now.
        clock: seconds, monotonic; the one of `use`.
        spare: cores that `use` is about beyond those: a container's quota may be 4 of 64. Others take them first.

    Attributes:
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
        self.steady = 1
        # From here to the first look a model is loaded, which is long enough to see who else is there.
        self._last = use()

    def settle(self, parameters: int, chosen: int | None) -> int:
        """Set the threads for a base model that was loaded, and return their number; the largest model decides.

        Args:
            parameters: of the model.
            chosen: by the settings; None leaves it to the model's size and the load.
        """
        self._parameters = max(self._parameters, parameters)
        self._chosen = chosen
        self.steady = chosen or threads_for(self._parameters, self._most, 0.0)
        return self._set()

    def follow_load(self) -> None:
        """Set the threads anew, unless that was done within the last second; called by who computes, between passes."""
        if self._chosen is None and self._most > 1 and self._clock() - self._last.at >= _LOOK_EVERY_S:
            self._set()

    def _set(self) -> int:
        threads = self._chosen
        if threads is None:
            now = self._use()
            others = max(0.0, now.others_since(self._last) - self._spare)
            threads = threads_for(self._parameters, self._most, others)
            self._last = now
        torch.set_num_threads(threads)
        return threads


THREADS = Threads(cores(), use_now, spare=max(0, cores_in_sight() - cores()))
