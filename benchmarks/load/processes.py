"""What the processes of a service take: resident memory and processor time."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field

import psutil

API, ENGINE, CLIENT = "API process", "engine process", "client"


@dataclass
class Watch:
    """Looks at the API process, its engine and this process once a second.

    Attributes:
        rows: of each look: seconds since the start, and resident MiB by process.
    """

    api_pid: int
    rows: list[dict[str, float]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        api = psutil.Process(self.api_pid)
        # The engine is the child with a model in it; a helper of the interpreter is small.
        children = sorted(api.children(), key=lambda child: child.memory_info().rss)
        self._processes = {API: api, ENGINE: children[-1], CLIENT: psutil.Process(os.getpid())}

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each process, MiB."""
        return {name: process.memory_info().rss / 2**20 for name, process in self._processes.items()}

    def cpu(self) -> dict[str, float]:
        """Return the processor time that each process has taken, seconds."""
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: took.user + took.system for name, took in times.items()}

    def start(self) -> None:
        """Look once a second until `stop`."""
        self._task = asyncio.create_task(self._look())

    def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while True:
            self.rows.append({"seconds": time.monotonic() - self._started} | self.memory())
            await asyncio.sleep(1.0)


async def note_lags(lags: list[float], interval_s: float = 0.01) -> None:
    """Note how late this event loop comes to a timer, seconds; runs until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        lags.append(loop.time() - due)
