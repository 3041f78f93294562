"""Starts one program under limits, watches it, ends everything that it started, and tells how it ended.

    python -E -s -S launcher.py WALL CONTROL PROGRAM JOB

CONTROL and PROGRAM are file descriptors: a stream socket to whoever started this, and the text of the program. JOB is a
Python literal, see `Wall.job`. The program's standard streams are those of this script. What is told is
one line: `ended STATUS SECONDS`, with the status as of wait(2); `time SECONDS`, `processes SECONDS` or `disk SECONDS`
for what ended it; or `failed WHY`, if it never began. When the other end of CONTROL is closed, the program is ended.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import time

import namespaces  # pyright: ignore[reportMissingImports], it lies beside this script, which is run as one
from namespaces import WORK, call  # pyright: ignore[reportMissingImports]

# Written down, like the annotations below without `collections.abc`, because imports are most of what a start costs.
SIGKILL, SIGSTOP = 9, 19
TICK = 0.02  # seconds between two looks at time, processes and control
FILE = "program.py"


def main() -> None:
    """Run the job of the command line."""
    wall, control, program = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    job = eval(sys.argv[4], {"__builtins__": {}})
    for descriptor in (control, program):
        os.set_inheritable(descriptor, False)
    try:
        if wall == "namespaces":
            namespaces.enter()
            _become_first_process()
            namespaces.build_root(job["folder"], job["visible"], job["hidden"], job["room"])
        # Behind walls, bubblewrap's as well, this is the first process of its namespace and ends all others with it.
        walled = wall != "none"
        folder = WORK if walled else job["folder"]
        watched = _Watched(job, folder, control, walled=walled)
        told = _run(job, folder, program, watched)
    except Exception as error:
        told = f"failed {error}"
    os.write(control, told.encode())


def _become_first_process() -> None:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 255)
    # Whoever kills the process that was started wants this one gone, and with it, being the first, all the others.
    call("prctl", namespaces.PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def _run(job: dict, folder: str, program: int, watched: _Watched) -> str:
    _offer_to_be_killed()
    # Orphans become children of this process; nobody looks into its memory or its files.
    call("prctl", namespaces.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    call("prctl", namespaces.PR_SET_DUMPABLE, 0, 0, 0, 0)
    _write_program(program, f"{folder}/{FILE}")
    if job["user"] is not None:
        os.chown(folder, job["user"], job["user"])
    began = time.monotonic()
    refused, refuses = os.pipe()
    child = os.fork()
    if not child:
        try:
            _start(job, folder)
        except BaseException as error:
            os.write(refuses, str(error).encode())
        os._exit(1)
    os.close(refuses)
    for stream in (0, 1, 2):
        os.close(stream)
    told = watched.until_end(child, began)
    why = os.read(refused, 1000).decode()
    return f"failed {why}" if why else f"{told} {time.monotonic() - began:.4f}"


def _offer_to_be_killed() -> None:
    """When memory runs out, have the kernel end this and what it starts before it ends who trains."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return  # some containers show no such file; the limits hold without it


def _write_program(program: int, path: str) -> None:
    with open(program, "rb") as source, open(path, "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
    os.chmod(path, 0o644)


def _start(job: dict, folder: str) -> None:
    os.setsid()
    os.chdir(folder)
    for limit, (soft, hard) in _rlimits(job).items():
        most = resource.getrlimit(limit)[1]
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(limit, (min(soft, hard), hard))
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(job["user"], job["user"], job["user"])
        os.setresuid(job["user"], job["user"], job["user"])
    call("prctl", namespaces.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execve(job["python"], [job["python"], "-s", "-S", FILE], {**os.environ, "HOME": folder, "TMPDIR": folder})


def _rlimits(job: dict) -> dict[int, tuple[int, int]]:
    limits = {
        # At the first a signal says what it was, a second later the kernel kills.
        resource.RLIMIT_CPU: (job["cpu_seconds"], job["cpu_seconds"] + 1),
        resource.RLIMIT_AS: (job["memory"], job["memory"]),
        resource.RLIMIT_FSIZE: (job["disk"], job["disk"]),
        resource.RLIMIT_NOFILE: (job["open_files"], job["open_files"]),
        resource.RLIMIT_CORE: (0, 0),
    }
    if job["count_in_kernel"]:
        # Above the number at which `_watch` ends the program: a program that is merely refused a process would be said
        # to have raised. This holds a fork bomb down until the next look.
        most = 2 * job["processes"] + 8
        limits[resource.RLIMIT_NPROC] = (most, most)
    return limits


class _Watched:
    """What is looked at while the program runs."""

    def __init__(self, job: dict, folder: str, control: int, *, walled: bool) -> None:
        self.job = job
        self.folder = folder
        self.control = control
        self.walled = walled

    def until_end(self, child: int, began: float) -> str:
        """Wait for the end of the program, or for a reason to end it, and end all that is left of it."""
        awaited = [self.control, *_end_of(child)]
        told = None
        while told is None:
            asked = self.control in select.select(awaited, [], [], TICK)[0]
            told = self.look(_reap(child), time.monotonic() - began, asked)
        # Its group first: where the kernel does not tell who is whose child, that is all that is known.
        _end([-child])
        while found := self.others():
            _end(found)
        return told

    def look(self, status: int | None, seconds: float, asked: bool) -> str | None:
        """Return why it is over, if it is."""
        # Looked at before the end is believed: a bomb's first process may be the first to fall.
        if len(self.others()) > self.job["processes"]:
            return "processes"
        # Behind walls the file system itself is no larger.
        if not self.walled and _size(self.folder) > self.job["room"]:
            return "disk"
        if status is not None:
            return f"ended {status}"
        if seconds > self.job["seconds"]:
            return "time"
        return "stopped" if asked else None

    def others(self) -> list[int]:
        """Return the processes that the program consists of."""
        return _all_others() if self.walled else _descendants()


def _end_of(child: int) -> list[int]:
    """Return a descriptor that can be read when the process has ended; none where its end is seen at the next tick."""
    try:
        return [os.pidfd_open(child)]
    except OSError:
        return []  # Linux before 5.3


def _size(folder: str) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _reap(child: int) -> int | None:
    """Take note of all that has ended; returns the status of `child` once that is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _all_others() -> list[int]:
    """Return all processes of this namespace but this one, those not counted that have ended."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1" and _lives(name)]


def _descendants() -> list[int]:
    """Return all processes below this one."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        try:
            # Of every thread: a process is the child of the thread that started it.
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as file:
                    children = file.read().split()
                waiting += [int(pid) for pid in children]
                found += [int(pid) for pid in children if _lives(pid)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _lives(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _end(found: list[int]) -> None:
    # All are stopped before the first is killed, so that none answers the death of another with two more.
    for number in (SIGSTOP, SIGKILL):
        for pid in found:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    time.sleep(0.001)
    _reap(0)


if __name__ == "__main__":
    main()
