"""The time that the scheduler sees while it takes turns."""

from __future__ import annotations

import simpy


class Clock:
    """Seconds: simpy's, and on top what the turn that is going on has taken so far."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._spent = 0.0

    def __call__(self) -> float:
        return self._env.now + self._spent

    def spend(self, seconds: float) -> None:
        """Let the turn take so long."""
        self._spent += seconds

    def take(self) -> float:
        """Return what the turn took, and begin the next."""
        spent, self._spent = self._spent, 0.0
        return spent
