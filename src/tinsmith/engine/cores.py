"""How many cores this process may use, and how many of those others keep busy."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

# The quota of a container and its period, microseconds: control groups of version 2 and 1, as seen from inside.
_QUOTAS = (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
_GROUPS = Path("/sys/fs/cgroup")
_STAT = Path("/proc/stat")
_LOAD = Path("/proc/loadavg")
# Where this process used less than that part of a core it has rested, and an average says nothing of now.
_RESTING = 0.5
# Before anyone has changed it.
_AT_START = torch.get_num_threads()
# Columns of a core's line in /proc/stat in which it has nothing to do: idle, and idle because of a disk. The two
# behind the eighth, guests, are counted in the first two columns as well.
_IDLE = (3, 4)
_COLUMNS = 8


def cores() -> int:
    """Return how many threads can run at once: what torch would take (OMP_NUM_THREADS, affinity), within the quota."""
    quota = _quota(_GROUPS)
    # A part of a core is better used by a thread of its own than left alone.
    return _AT_START if quota is None else max(1, min(_AT_START, math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    """Return the cores' worth of time that a container's control group grants, None where it grants all."""
    for names in _QUOTAS:
        # Both numbers in one file, or each in its own.
        words = " ".join(
            (groups / name).read_text() for name in dict.fromkeys(names) if (groups / name).exists()
        ).split()
        if len(words) == 2 and words[0] not in ("max", "-1"):
            return int(words[0]) / int(words[1])
    return None


@dataclass(frozen=True, slots=True)
class Use:
    """Processor time up to a moment, seconds.

    Attributes:
        at: the moment, on a monotonic clock.
        everyone: of all processes on the cores that this one may use; 0 where the system does not tell.
        own: of this process.
        running: threads of others that run or could run at the moment, on all cores.
    """

    at: float
    everyone: float
    own: float
    running: int = 0

    def others_since(self, earlier: Use) -> float:
        """Return how many cores other processes kept busy since then, on the average; after a rest, at the moment."""
        elapsed = self.at - earlier.at
        if elapsed <= 0:
            return 0.0
        # A script that computes something itself and then waits for a step has left the cores by now.
        if self.own - earlier.own < _RESTING * elapsed:
            # One of those that run has just handed over the work, and goes to sleep.
            return max(0.0, self.running - 1.0)
        return max(0.0, (self.everyone - earlier.everyone) - (self.own - earlier.own)) / elapsed


def use_now() -> Use:
    """Return the processor time up to now."""
    everyone = busy_seconds(_STAT.read_text(), os.sched_getaffinity(0)) if _STAT.exists() else 0.0
    # Running and all threads, as in `2/234`; this one runs.
    running = int(_LOAD.read_text().split()[3].split("/")[0]) - 1 if _LOAD.exists() else 0
    return Use(time.monotonic(), everyone, time.process_time(), max(0, running))


def cores_in_sight() -> int:
    """Return how many cores `Use` is about: those that this process may be put on, be they beyond its quota."""
    return len(os.sched_getaffinity(0))


def busy_seconds(stat: str, cores: set[int]) -> float:
    """Return the time for which cores were busy since the machine started, of `/proc/stat`.

    A virtual machine's core that its host has given to another one is busy too. So is one with a process of low
    priority: where sessions are scheduled in groups, such a process takes half of the core all the same.
    """
    ticks = 0
    names = {f"cpu{core}" for core in cores}
    for line in stat.splitlines():
        name, _, rest = line.partition(" ")
        if name in names:
            columns = [int(word) for word in rest.split()[:_COLUMNS]]
            ticks += sum(columns) - sum(columns[i] for i in _IDLE if i < len(columns))
    return ticks / os.sysconf("SC_CLK_TCK")
