"""The walls that can be tried on this machine, and a way to run a program behind one."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tinsmith.cookbook.code_execution.limits import Limits
from tinsmith.cookbook.code_execution.local_sandbox import why_not
from tinsmith.cookbook.code_execution.runner import run_behind
from tinsmith.cookbook.code_execution.sandbox import Executed
from tinsmith.cookbook.code_execution.walls import Wall, candidates

QUICK = Limits(seconds=20.0, cpu_seconds=1, memory=256 << 20, disk=1 << 20, output=100_000)
# What a hostile program does, and how its end is called. None of these says what it is before it is run.
HOSTILE = {
    "loops": ("while True: pass", "cpu"),
    "takes memory": ("kept = []\nwhile True: kept.append(bytes(1 << 26))", "memory"),
    "prints without end": ("while True: print('x' * 1000)", "output"),
    "complains without end": ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output"),
    "writes gigabytes": ("with open('big', 'wb') as f:\n while True: f.write(bytes(1 << 20))", "disk"),
    "writes many files": ("n = 0\nwhile True:\n n += 1\n open(f'{n}', 'wb').write(bytes(1 << 18))", "disk"),
    "opens without end": ("kept = []\nwhile True: kept.append(open('/dev/null'))", "files"),
    "starts forty": (
        "import os, time\nfor _ in range(40):\n if os.fork() == 0: time.sleep(30); os._exit(0)\ntime.sleep(30)",
        "processes",
    ),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "signal"),
    "raises": ("1 / 0", "raised"),
    "leaves": ("import sys\nsys.exit(3)", "raised"),
    "is no Python": ("x = = 1", "raised"),
    "recurses": ("def f(): f()\nf()", "raised"),
}


@functools.cache
def refused(wall: Wall) -> str | None:
    return asyncio.run(why_not(wall))


def usable(wall: Wall) -> Wall:
    """Return the wall, or skip where this machine has it not."""
    why = refused(wall)
    if why is not None:
        pytest.skip(f"{wall}: {why}")
    return wall


WALLS = [pytest.param(wall, id=f"{wall.kind}{'-other-user' * wall.other_user}") for wall in candidates()]


def run(wall: Wall, program: str, stdin: str = "", limits: Limits = QUICK) -> Executed:
    return asyncio.run(run_behind(wall, program, stdin, limits))


def launchers(folder: Path) -> list[str]:
    """Return the command lines of all launchers that live and whose programs' folders lie in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "launcher.py" in text and str(folder) in text:
            found.append(text)
    return found


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


# Run by a Python that any user may run, as a user who is not root.
if __name__ == "__main__":
    found: dict[str, object] = {}
    for wall in candidates():
        why = refused(wall)
        if why is None and wall.isolates:
            names = ("takes memory", "prints without end", "writes many files", "starts forty")
            ends = {name: run(wall, HOSTILE[name][0]).reason for name in names}
            program = f"import os\nprint(os.path.exists({os.path.expanduser('~')!r}), os.path.exists({sys.argv[0]!r}))"
            found[wall.kind] = {**ends, "sees": run(wall, program).stdout}
        else:
            found[wall.kind] = why
    print(json.dumps(found))
