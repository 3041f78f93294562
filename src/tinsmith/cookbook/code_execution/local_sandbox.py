"""A sandbox on this machine: a process with limits, behind the best walls that the machine allows."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
import tempfile
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

from tinsmith.cookbook.code_execution.limits import Limits
from tinsmith.cookbook.code_execution.runner import run_behind
from tinsmith.cookbook.code_execution.sandbox import Executed, SandboxError
from tinsmith.cookbook.code_execution.walls import Wall, candidates
from tinsmith.cookbook.notices import warn_once
from tinsmith.types.errors import invalid

# What walls must keep from a program is tried, not believed: a file of ours, a server of ours.
_PROBE = """
import os, socket
seen = []
if os.path.exists({path!r}):
    seen.append("a file of this machine")
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=1)
    seen.append("a server on this machine")
except OSError:
    pass
print("; ".join(seen) or "nothing")
"""


class LocalSandbox:
    """Runs programs on this machine, several at once.

    Args:
        limits: of runs that bring none of their own.
        max_parallel: programs that run at once; None takes the number of cores.
        require_isolation: refuse to be made where programs could read files or use the network.

    Raises:
        UserError: a bad setting; this is not Linux.
        SandboxError: no program can be started; or `require_isolation`, and the machine allows none.
    """

    def __init__(
        self, limits: Limits | None = None, max_parallel: int | None = None, *, require_isolation: bool = False
    ) -> None:
        if max_parallel is not None and max_parallel < 1:
            raise invalid("max_parallel", max_parallel, "at least 1")
        if sys.platform != "linux":
            raise invalid("platform", sys.platform, "linux: elsewhere, give a sandbox of your own")
        self._limits = limits or Limits()
        self._parallel = max_parallel or os.cpu_count() or 1
        # A semaphore belongs to one loop; training and evaluation may have one each.
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._wall, self._refused = find_wall()
        if not self._wall.isolates:
            if require_isolation:
                raise SandboxError(f"require_isolation: {self.describe()}")
            warn_once("code_execution", self.describe())

    async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
        """Run a Python program to its end; see `Sandbox.run`."""
        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._parallel))
        async with slots:
            return await run_behind(self._wall, program, stdin, limits or self._limits)

    @property
    def isolates(self) -> bool:
        """Whether network, files and processes of this machine are out of a program's reach."""
        return self._wall.isolates

    def describe(self) -> str:
        """Say what stands between a program and this machine, and why it is no more."""
        return "; ".join([f"generated code is {self._wall.describe()}", *self._refused])


_finding = threading.Lock()


def find_wall() -> tuple[Wall, tuple[str, ...]]:
    """Return the best wall that this machine allows, and why better ones were refused. Found out once per process.

    Raises:
        SandboxError: no program can be started at all.
    """
    with _finding:
        return _find_wall()


@functools.cache
def _find_wall() -> tuple[Wall, tuple[str, ...]]:
    refused: list[str] = []
    for wall in candidates():
        # In a thread of its own: whoever asks may be on an event loop.
        with ThreadPoolExecutor(1) as thread:
            why = thread.submit(asyncio.run, why_not(wall)).result()
        if why is None:
            return wall, tuple(refused)
        refused.append(f"not {wall.kind}{' as another user' * wall.other_user}: {why}")
    raise SandboxError(f"no program can be started here: {'; '.join(refused)}")


async def why_not(wall: Wall) -> str | None:
    """Try a wall.

    Returns:
        None where it holds, else why it cannot be used.
    """
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        probe = _PROBE.format(path=file.name, port=server.getsockname()[1])
        try:
            executed = await run_behind(wall, probe, "", Limits())
        except (SandboxError, OSError) as error:
            return str(error)
    if not executed.ok:
        return executed.stderr.strip().rpartition("\n")[2] or f"the interpreter ended with {executed.reason}"
    seen = executed.stdout.strip()
    return f"a program sees {seen}" if wall.isolates and seen != "nothing" else None
