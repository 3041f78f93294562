"""A mark: who holds something, since when, and the last sign of life; and whether its holder is still there."""

from __future__ import annotations

import json
import os
import platform
import sys
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path

# Seconds between two signs of life.
BEAT_S = 5.0
# A holder on another machine that was silent for so long is taken for dead.
SILENT_S = 30.0


class Life(Enum):
    """What can be said of a mark's holder from here."""

    ALIVE = auto()
    DEAD = auto()
    SILENT = auto()  # it was not heard of for long, by a clock that may be another's


@dataclass(frozen=True, slots=True)
class Mark:
    """A service's mark.

    Attributes:
        id: of the start of the service.
        host, machine: the machine's name and its lasting id; containers of one image may share both.
        boot: of the machine; ids of processes mean nothing after the next one.
        space: of process ids; a container has its own.
        began: when the process began, in the machine's own count; tells it from a later one with the same pid.
        since, beat: when it was made, when it was last refreshed; seconds since the epoch by the holder's clock.
    """

    id: str
    host: str
    machine: str
    boot: str
    space: str
    pid: int
    began: str
    command: str
    since: float
    beat: float

    def text(self) -> str:
        """Return how it is stored."""
        return json.dumps(asdict(self), sort_keys=True)

    def refreshed(self, now: float) -> Mark:
        """Return it with a new sign of life."""
        return replace(self, beat=now)


def new_mark(now: float) -> Mark:
    """Return a mark of this process."""
    pid = os.getpid()
    command = " ".join(sys.argv)
    boot, space = _boot(), _space()
    return Mark(uuid.uuid4().hex, platform.node(), _machine(), boot, space, pid, _began(pid) or "", command, now, now)


def parse(text: str) -> Mark | None:
    """Return the mark that a text holds; None where it holds none."""
    try:
        fields = json.loads(text)
        mark = Mark(**fields)
        return replace(mark, pid=int(mark.pid), since=float(mark.since), beat=float(mark.beat))
    except (ValueError, TypeError):
        return None


def life(text: str, ours: frozenset[str], now: float) -> Life:
    """Say whether the holder of a mark is alive.

    Args:
        ours: ids of the services that are alive in this process.
        now: seconds since the epoch.
    """
    mark = parse(text)
    if mark is None:
        return Life.SILENT  # whoever wrote it: if he is alive he will write it again
    if _is_within_sight(mark):
        if mark.pid == os.getpid():
            return Life.ALIVE if mark.id in ours else Life.DEAD
        return Life.ALIVE if _began(mark.pid) == mark.began and _exists(mark.pid) else Life.DEAD
    if _was_rebooted(mark):
        return Life.DEAD
    # Either way: a clock that is ahead tells no more than one that is behind.
    return Life.ALIVE if abs(now - mark.beat) <= SILENT_S else Life.SILENT


def holder(text: str, now: float) -> str:
    """Say who holds something."""
    mark = parse(text)
    if mark is None:
        return "another service (whose mark cannot be read)"
    since = datetime.fromtimestamp(mark.since, UTC).isoformat(timespec="seconds")
    heard = f"last sign of life {max(0.0, now - mark.beat):.0f} s ago"
    return f"pid {mark.pid} on {mark.host} since {since} ({heard}; command: {mark.command})"


def elsewhere(text: str) -> bool:
    """Whether a mark's holder is where nothing can be said of its process."""
    mark = parse(text)
    return mark is None or not _is_within_sight(mark)


def _is_within_sight(mark: Mark) -> bool:
    return (mark.host, mark.boot, mark.space) == (platform.node(), _boot(), _space())


def _was_rebooted(mark: Mark) -> bool:
    """Whether the holder ran on this machine before it was started anew; of a container that cannot be said."""
    ours = (platform.node(), _machine(), _FIRST_SPACE, _FIRST_SPACE)
    return _machine() != "" and (mark.host, mark.machine, mark.space, _space()) == ours and mark.boot != _boot()


# The space of process ids outside of all containers (PROC_PID_INIT_INO).
_FIRST_SPACE = "4026531836"


def _machine() -> str:
    return _read("/etc/machine-id")


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _space() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine did; None where there is none or nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else ""
    # A zombie has ended; it is only not yet buried by its parent.
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
