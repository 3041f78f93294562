"""The answers to held polls, let go of no faster than the event loop can take what they bring."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

# Polls that end in one turn.
_AT_ONCE = 2
# Between two turns, seconds: about the time in which a client has read an answer and has sent what it asks for next.
_GAP_S = 0.002
# A turn that comes later than this, seconds, says that the loop has more to do than it can, and ends no poll. So many
# in a row do, and no more: on a machine where others take the processor every turn is late.
_LATE_S = 0.002
_MOST_SKIPPED = 4
# No answer waits longer for its turn, seconds, whatever else there is to do.
_LONGEST_S = 1.0

Poll = asyncio.Future[None]


class Pace:
    """Ends polls in the order in which their outcomes came.

    One pass of the engine settles the operations of a hundred sessions, and every answer makes its client submit the
    next ones. Answered all at once, they come back all at once, and a heartbeat or a submission waits behind each of
    them. The same work takes no longer in a row: who is answered later would have waited as long with its next request.
    """

    def __init__(self) -> None:
        self._due: deque[tuple[float, Iterable[Poll]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._left = _AT_ONCE
        self._skipped = 0

    def end(self, polls: Iterable[Poll]) -> None:
        """End polls now or, where many are due, in their turn."""
        if not polls:
            return
        if self._timer is None:
            self._left = _AT_ONCE
            self._set_timer()
        if self._left and not self._due:
            self._left -= 1
            release(polls)
        else:
            self._due.append((time.monotonic(), polls))

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_GAP_S, self._turn, loop.time() + _GAP_S)

    def _turn(self, expected: float) -> None:
        self._timer = None
        if not self._due:
            return
        late = asyncio.get_running_loop().time() - expected > _LATE_S
        self._skipped = self._skipped + 1 if late and self._skipped < _MOST_SKIPPED else 0
        self._left = 0 if self._skipped else _AT_ONCE
        overdue = time.monotonic() - _LONGEST_S
        while self._due and (self._left or self._due[0][0] < overdue):
            self._left = max(0, self._left - 1)
            release(self._due.popleft()[1])
        self._set_timer()

    def end_all(self) -> None:
        """End all that wait for their turn."""
        while self._due:
            release(self._due.popleft()[1])


def release(polls: Iterable[Poll]) -> None:
    """End polls now."""
    for poll in polls:
        if not poll.done():  # its request may have gone away
            poll.set_result(None)
