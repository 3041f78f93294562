"""How long to wait before a host that died is started again."""

from __future__ import annotations

import time
from collections.abc import Callable

# A single crash should hardly be felt; a host that dies at once, over and over, should not fill the log and the disk.
_FIRST_S = 0.2
_LONGEST_S = 30.0
_LONGEST_WITH_PROGRESS_S = 2.0
# A host that was up for this long was a sound one, though nobody asked it for anything.
_SOUND_LIFE_S = 60.0


class Backoff:
    """Waits that double from life to life, as long as no life gets anything done.

    A life that finished an operation, or was up for a minute, is followed at once by the next: what killed it is news.
    One that died while it loaded, while it was being rebuilt or at its first operation is a repetition. Lives that get
    something done and then end by themselves, one after another, wait too, but not for long: others work in them.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._delay = _FIRST_S
        self._up_since: float | None = None
        self._progress = False

    def up(self) -> None:
        """A host is up: its models are loaded."""
        self._up_since = self._clock()

    def progressed(self) -> None:
        """It has finished an operation that was not a repetition."""
        self._progress = True

    def died(self, from_outside: bool = True) -> float:
        """A life has ended, by itself or from outside; return the seconds to wait before the next."""
        sound = self._up_since is not None and self._clock() - self._up_since > _SOUND_LIFE_S
        progress, self._progress, self._up_since = self._progress, False, None
        if sound or (progress and from_outside):
            self._delay = _FIRST_S
            return 0.0
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_S)
        return min(delay, _LONGEST_WITH_PROGRESS_S) if progress else delay
