"""How long to wait before a host that died is started again."""

from __future__ import annotations

import time

# A single crash should hardly be felt; a host that dies at once, over and over, should not fill the log and the disk.
_FIRST_S = 0.2
_LONGEST_S = 30.0
# A life this long was a sound one: the next death is news, not a repetition.
_SOUND_LIFE_S = 60.0


class Backoff:
    """Waits that double from life to short life."""

    def __init__(self) -> None:
        self._delay = _FIRST_S
        self._born = time.monotonic()

    def born(self) -> None:
        """A life begins."""
        self._born = time.monotonic()

    def died(self) -> float:
        """A life has ended; return the seconds to wait before the next."""
        if time.monotonic() - self._born > _SOUND_LIFE_S:
            self._delay = _FIRST_S
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_S)
        return delay
