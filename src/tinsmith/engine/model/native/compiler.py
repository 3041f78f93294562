"""Builds the C sources beside this file for the processor that they run on, once, and loads them.

A distribution built elsewhere would have to do with the instructions that all processors have, at a quarter of the
speed. So the library is built at the first start, which takes some five seconds, and kept in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

# Loaded first, so that the library finds torch's OpenMP and its threads, and brings none of its own.
import torch  # noqa: F401

log = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent
# Sums keep their order: what may be reordered says so at its loop. `errno` and traps nobody looks at.
_FLAGS = "-std=gnu11 -O3 -march=native -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC"
_LONGEST_BUILD_S = 120


@cache
def library() -> ctypes.CDLL | None:
    """Return the library; None where it can't be built or loaded, which is logged once."""
    compiler = find_compiler()
    if compiler is None:
        asked = f"CC={os.environ['CC']}" if os.environ.get("CC") else "cc, gcc, clang"
        log.warning("no C compiler found (%s): torch's operations run on this CPU, slower", asked)
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        # A compiler says what it dislikes in its first lines.
        said = getattr(error, "stderr", None) or str(error)
        log.warning(
            "%s can't build the engine's parts in C for this CPU, torch's operations run, slower: %s",
            shlex.join(compiler),
            " ".join(said.split()[:60]),
        )
        return None


def find_compiler() -> list[str] | None:
    """Return the command of the C compiler, CC's if it is set; None where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _built(compiler: Sequence[str]) -> Path:
    """The library's file, built if it is not there yet."""
    name = f"native-{_digest(compiler)}.so"
    folder = _folder()
    kept = folder / name
    if not kept.exists():
        # Under a name of its own, so that a process that starts at the same time never loads half a file.
        with tempfile.TemporaryDirectory(dir=folder) as work:
            fresh = Path(work) / name
            _run([*compiler, *_FLAGS.split(), *map(str, sorted(_SOURCES.rglob("*.c"))), "-o", str(fresh), "-lm"])
            fresh.replace(kept)
    return kept


def _digest(compiler: Sequence[str]) -> str:
    """Names what the library is built from and for: the sources, the compiler and the processor's instructions."""
    # The macros that a compiler defines tell its version and all instructions that it may use here.
    seen = _run([*compiler, *_FLAGS.split(), "-dM", "-E", "-x", "c", os.devnull])
    digest = hashlib.sha256((_FLAGS + seen).encode())
    for source in sorted([*_SOURCES.rglob("*.c"), *_SOURCES.rglob("*.h")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LONGEST_BUILD_S).stdout


def _folder() -> Path:
    """The user's cache folder; where nobody can write there, or others can, one that lasts as long as the process."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "tinsmith" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError:
        return Path(_passing_folder().name)
    # What lies there is run.
    is_ours = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_ours and os.access(folder, os.W_OK) else Path(_passing_folder().name)


@cache
def _passing_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tinsmith-native-")
