"""The service's time: what silence and retention are counted in, and the wall clock for what is promised by date."""

from __future__ import annotations

import asyncio

from tinsmith.clocks import LOOK_EVERY_S, ListeningClock, SteadyWall


class ServiceClock:
    """Two times, neither of which a jump of the wall clock moves unnoticed.

    Args:
        start: what `now` shows first: the last time that an earlier life has stored.
        wall_start: the last date that one has stored, seconds since the epoch; `wall` does not begin before it.

    Attributes:
        now: seconds in which the service listened, over all its lives. Silence of clients, and how long results and
            recordings are kept, are counted in it: while the service was down or stopped nobody could speak to it.
        wall: seconds since the epoch. The lifetimes of checkpoints are counted in it.
    """

    def __init__(self, start: float, wall_start: float = 0.0) -> None:
        self.now = ListeningClock(start)
        self.wall = SteadyWall(wall_start)

    async def keep(self) -> None:
        """Look at the clock until cancelled, or time would not pass while nobody asks."""
        while True:
            self.now()
            await asyncio.sleep(LOOK_EVERY_S)
