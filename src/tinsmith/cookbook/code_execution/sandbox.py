"""The seam: what a sandbox is asked and what it answers."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, Protocol

from tinsmith.cookbook.code_execution.limits import Limits

# How a run ended. `ok`: by itself, with exit code 0. `raised`: with another exit code, as an uncaught exception gives.
# `signal`: killed by a signal, its own or another's. The rest name the limit that it ran into.
Reason = Literal["ok", "raised", "signal", "time", "cpu", "memory", "output", "disk", "files", "processes"]

# Python turns most limits into exceptions; their last line says which. (EAGAIN is that of fork, and of a new thread.)
_ERRORS: tuple[tuple[str, Reason], ...] = (
    (r"MemoryError\b|.*\[Errno 12\]", "memory"),
    (r"OSError: \[Errno (27|28)\]", "disk"),
    (r"OSError: \[Errno 24\]", "files"),
    (r"BlockingIOError: \[Errno 11\]|RuntimeError: can't start new thread", "processes"),
)
_SIGXCPU = -24


@dataclasses.dataclass(frozen=True)
class Executed:
    """What came of a run.

    Attributes:
        stdout, stderr: what was written there, at most `Limits.output` bytes, bytes that are not UTF-8 replaced.
        reason: how it ended.
        seconds: wall clock, the start of the interpreter included.
    """

    stdout: str
    stderr: str
    reason: Reason
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the program came to its end by itself, with exit code 0."""
        return self.reason == "ok"


class Sandbox(Protocol):
    """Runs programs that nobody has read. `LocalSandbox` is one; a remote one needs this method alone."""

    async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
        """Run a Python program to its end, whatever it does.

        Args:
            program: source text.
            stdin: what it reads.
            limits: what it may use; None takes the sandbox's own.

        Raises:
            SandboxError: the sandbox itself failed; nothing is known about the program.
        """
        ...


class SandboxError(RuntimeError):
    """The sandbox could not run a program, which is no verdict about the program."""


def reason_of(exit_code: int, stderr: str) -> Reason:
    """Name the end of a Python program.

    Args:
        exit_code: as `subprocess` has it: a signal is a negative number.
        stderr: what it wrote there; the last line of a traceback tells a limit from any other exception. A program can
            write such a line itself, and be told wrongly why it failed, but not that it did not fail.
    """
    if exit_code == 0:
        return "ok"
    if exit_code < 0:
        return "cpu" if exit_code == _SIGXCPU else "signal"
    last = stderr.rstrip().rpartition("\n")[2]
    for pattern, reason in _ERRORS:
        if re.match(pattern, last):
            return reason
    return "raised"
