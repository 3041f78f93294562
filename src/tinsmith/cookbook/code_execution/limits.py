"""What one program may use."""

from __future__ import annotations

import dataclasses

from tinsmith.types.errors import invalid

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one run of a program may use; see docs/code-execution.md for which limit counts what.

    Args:
        seconds: wall clock of the whole run.
        cpu_seconds: processor time, whole seconds, of each process.
        memory: address space in bytes, of each process. Python itself takes about 20 MiB.
        processes: how many may live at once, the first one included.
        disk: bytes in all files of its folder together.
        open_files: file descriptors of each process.
        output: bytes of standard output, and as many of standard error.

    Raises:
        UserError: a limit is not above 0.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory: int = 512 * MIB
    processes: int = 8
    disk: int = 16 * MIB
    open_files: int = 64
    output: int = 1 * MIB

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            wanted = "a number above 0" if name == "seconds" else "a whole number above 0"
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float if name == "seconds" else int)
                or value <= 0
            ):
                raise invalid(f"limits.{name}", value, wanted)
