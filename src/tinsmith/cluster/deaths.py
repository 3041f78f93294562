"""Of what a child process died: by itself, from outside, or because memory ran out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tinsmith.types.engine_messages.host_events import LossCause

# Signals that a process brings upon itself; any other comes from somebody else.
_OWN_SIGNALS = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP)
)
_VMSTAT = Path("/proc/vmstat")
# A kill is recent for once to twice so long, seconds.
_LATELY_S = 10.0


class MemoryKills:
    """Whether the kernel has lately killed a process of this machine because memory ran out (Linux; else never).

    It sends the signal that an operator sends, too, so that its count is all that tells them apart. It counts what it
    did within containers as well as for the whole machine.

    Args:
        vmstat: the file with the kernel's counters.
        clock: seconds, monotonic.
    """

    def __init__(self, vmstat: Path = _VMSTAT, clock: Callable[[], float] = time.monotonic) -> None:
        self._vmstat = vmstat
        self._clock = clock
        self._looked_at = clock()
        self._before = self._seen = self._count()

    def look(self) -> None:
        """To be called about every second, so that a kill of long ago is not taken for a new one."""
        # By two counts and not one: a large process takes seconds from its kill to its end.
        if self._clock() - self._looked_at >= _LATELY_S:
            self._before, self._seen, self._looked_at = self._seen, self._count(), self._clock()

    def happened(self) -> bool:
        """Whether there was one lately."""
        return self._count() > self._before

    def _count(self) -> int:
        try:
            lines = self._vmstat.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def cause_of(status: int | None, out_of_memory: bool) -> LossCause:
    """Return why a process ended that nobody here has ended.

    Args:
        status: its exit status, a signal's number negated; None where it is not known.
        out_of_memory: whether the kernel has just killed for lack of memory.
    """
    if status is None or status >= 0 or -status in _OWN_SIGNALS:
        return "crashed"
    return "memory" if out_of_memory and -status == signal.SIGKILL else "killed"


def how_it_ended(status: int | None, cause: LossCause) -> str:
    """Return in words how a process ended."""
    if cause == "memory":
        return "the engine process was killed by the kernel because memory ran out"
    if status is not None and status < 0:
        return f"the engine process was killed by signal {-status} ({signal.strsignal(-status)})"
    return f"the engine process ended with status {status}"


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped a process (SIGSTOP, a debugger), so that it can't be blamed for its silence."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # The state stands behind the name, which may hold anything.
    return stat.rpartition(")")[2].split()[0] in ("T", "t")
