"""Clocks that stand still while this process does, and how far the wall clock is from where it should be."""

from __future__ import annotations

import time
from collections.abc import Callable

# The most that counts between two looks at a listening clock, seconds. A busy loop is late by less; a process that
# was stopped, or whose machine slept, is late by more and heard nobody meanwhile.
LONGEST_LOOK_S = 5.0
# How often whoever keeps such a clock looks at it, seconds.
LOOK_EVERY_S = 1.0
# How far a wall clock moves in one go before anybody speaks of it, seconds. Time services correct less without a jump.
JUMP_S = 10.0


def uptime() -> float:
    """Return seconds since the machine was started, those that it slept included where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class ListeningClock:
    """Seconds in which this process ran, so that it could have heard whoever spoke.

    It goes on by what lies between two looks at it, by `LONGEST_LOOK_S` at most, so it has to be looked at all the
    time; whoever owns one sees to that. Not for several threads.

    Args:
        start: what it shows first.
        source: seconds, monotonic.
    """

    def __init__(self, start: float = 0.0, source: Callable[[], float] = time.monotonic) -> None:
        self._seconds = start
        self._source = source
        self._looked = source()

    def __call__(self) -> float:
        """Look at the clock."""
        now = self._source()
        self._seconds += min(max(now - self._looked, 0.0), LONGEST_LOOK_S)
        self._looked = now
        return self._seconds


class SteadyWall:
    """The wall clock as it was when it was last believed, carried on by the uptime: no jump moves it by itself.

    Args:
        at_least: the wall clock is not believed to be behind this, seconds since the epoch.
        wall: seconds since the epoch.
        uptime: seconds, monotonic.
    """

    def __init__(
        self,
        at_least: float = 0.0,
        wall: Callable[[], float] = time.time,
        uptime: Callable[[], float] = uptime,
    ) -> None:
        self._wall = wall
        self._uptime = uptime
        self._look()
        self._shown = max(self._seen, at_least)
        self.behind = self._shown - self._seen

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self._shown + self._uptime() - self._at

    def jump(self) -> float:
        """Return how far the wall clock has moved by itself since it was looked at last, seconds; below 0 is back."""
        return self._wall() - self._seen - (self._uptime() - self._at)

    def go_on(self) -> None:
        """Look at the wall clock, and go on without it."""
        self._shown = self()
        self._look()

    def believe(self) -> float:
        """Go on with the wall clock as it is now; return how far that moves this one, seconds."""
        before = self()
        self._look()
        self._shown = self._seen
        return self._shown - before

    def _look(self) -> None:
        self._seen, self._at = self._wall(), self._uptime()


def span(seconds: float) -> str:
    """Return a span of time as a log line says it."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
