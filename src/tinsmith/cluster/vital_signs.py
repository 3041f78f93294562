"""Whether a child process still does something, judged by what is heard from it."""

from __future__ import annotations

from collections.abc import Callable

from tinsmith.clocks import ListeningClock
from tinsmith.types.engine_messages.host_events import LossCause


class VitalSigns:
    """What was heard from one child, and when.

    Turns are timed here and not in the child: so a pause of both, as of a machine that sleeps, makes no turn longer.

    Args:
        beat_s: how long a child may be silent once it has said something, seconds.
        stall_s: how long one turn may take, and how long a child may take to say its first word, seconds.
        clock: seconds in which this process could hear.
    """

    def __init__(self, beat_s: float, stall_s: float, clock: Callable[[], float] | None = None) -> None:
        self._beat_s = beat_s
        self._stall_s = stall_s
        self._clock = clock or ListeningClock()
        self._heard_at = self._turn_since = self._clock()
        self._heard = False
        self._turn: int | None = None

    def heard(self) -> None:
        """Note that bytes came."""
        self._heard = True
        self._heard_at = self._clock()

    def beat(self, turn: int | None) -> None:
        """Note the number of the turn that the child is at; None while it is idle or loads."""
        if turn != self._turn:
            self._turn, self._turn_since = turn, self._clock()

    def verdict(self) -> tuple[LossCause, str] | None:
        """Return why the child should be killed, None while it should not; to be asked about every second."""
        now = self._clock()
        # Its first word comes after Python has loaded torch, which a cold disk makes slow.
        silence_s = self._beat_s if self._heard else max(self._beat_s, self._stall_s)
        if now - self._heard_at > silence_s:
            return "stopped", f"the engine process said nothing for {silence_s:g} s (it was stopped or hangs)"
        if self._turn is not None and now - self._turn_since > self._stall_s:
            return "stalled", f"the engine process spent more than {self._stall_s:g} s in one turn"
        return None
