"""Walls: what stands between a program and this machine. Which of them this machine allows is found out by trying."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import secrets
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Literal

from tinsmith.cookbook.code_execution.inside import namespaces
from tinsmith.cookbook.code_execution.limits import Limits

Kind = Literal["namespaces", "bubblewrap", "none"]
LAUNCHER = str(Path(__file__).parent / "inside" / "launcher.py")
# The interpreter that this one is a virtual environment of: generated code sees the standard library alone.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
# Where libraries of the system lie; neither homes nor settings nor data.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")
# Users that no system hands out for good, so that limits per user count this program alone.
_FIRST_USER, _USERS = 61184, 4336


@dataclasses.dataclass(frozen=True)
class Wall:
    """One way to start a program.

    Attributes:
        kind: `none` is limits alone.
        other_user: whether the program runs as a user of its own, which takes root.
    """

    kind: Kind
    other_user: bool

    @property
    def isolates(self) -> bool:
        """Whether the network, files and processes of this machine are out of reach."""
        return self.kind != "none"

    def describe(self) -> str:
        """Say what it does and what it does not."""
        who = "a user of its own" if self.other_user else "you"
        if not self.isolates:
            own = "files that any user may read" if self.other_user else "all that you may read, keys included"
            return f"not isolated: a program runs as {who}, reads {own}, and has the network"
        how = "Linux namespaces" if self.kind == "namespaces" else "bubblewrap"
        return f"isolated by {how}: a program runs as {who}, without network, other processes or files of yours"

    def job(self, limits: Limits, folder: str, room: int) -> dict[str, object]:
        """Return what the launcher is told; room is in bytes, for the program's text and what it writes."""
        return {
            **dataclasses.asdict(limits),
            "room": room,
            "python": PYTHON,
            "folder": folder,
            "user": _FIRST_USER + secrets.randbelow(_USERS) if self.other_user else None,
            # Elsewhere the kernel would count whatever else runs as the same user.
            "count_in_kernel": self.other_user or self.kind == "namespaces",
            "visible": _visible(),
            "hidden": _hidden(),
        }

    def command(self, control: int, program: int, limits: Limits, folder: str) -> list[str]:
        """Return the command that runs a program; control and program are inherited file descriptors."""
        # Memory of the folder is given out by whole pages.
        room = limits.disk + os.fstat(program).st_size + 2 * os.sysconf("SC_PAGE_SIZE")
        arguments = [str(control), str(program), repr(self.job(limits, folder, room))]
        python = [PYTHON, "-E", "-s", "-S"]
        if self.kind != "bubblewrap":
            return [*python, LAUNCHER, self.kind, *arguments]
        return [*_bubblewrap(room), *python, "/launcher/launcher.py", "given", *arguments]


def candidates() -> list[Wall]:
    """Return the ways to try, the best first."""
    root = os.getuid() == 0
    # Bubblewrap started by root would leave the program root's user, of whom limits count nothing. Where root may not
    # make namespaces, it may not either.
    walls = [Wall("namespaces", root)] if root else [Wall("namespaces", False), Wall("bubblewrap", False)]
    return [*walls, *([Wall("none", True)] if root else []), Wall("none", False)]


def _visible() -> list[str]:
    home = [sys.base_prefix, str(Path(PYTHON).parent.parent)]
    # A folder inside another one is there already.
    return [*_SYSTEM, *dict.fromkeys(path for path in home if not path.startswith("/usr"))]


@functools.cache
def _hidden() -> list[str]:
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    paths = sysconfig.get_paths("posix_prefix", vars=base)
    # Packages may hold the very problems that are asked, answers beside them.
    system = [*glob.glob("/usr/lib/python3*/*-packages"), *glob.glob("/usr/local/lib/python3*/*-packages")]
    return sorted({paths["purelib"], paths["platlib"], *system})


def _bubblewrap(size: int) -> list[str]:
    options = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1", "--die-with-parent"]
    for path in _visible():
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            options += ["--ro-bind", path, path]
    for path in filter(os.path.isdir, _hidden()):
        options += ["--tmpfs", path, "--remount-ro", path]
    for name in namespaces.DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    options += [
        "--ro-bind",
        str(Path(LAUNCHER).parent),
        "/launcher",
        "--size",
        str(size),
        "--tmpfs",
        namespaces.WORK,
        "--proc",
        "/proc",
    ]
    options += ["--symlink", namespaces.WORK, "/tmp", "--symlink", namespaces.WORK, "/dev/shm", "--remount-ro", "/"]
    return [shutil.which("bwrap") or options[0], *options[1:], "--"]
