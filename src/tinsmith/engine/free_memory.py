"""How much memory is free for this process, on the host and on an accelerator.

On a host nobody is told when it is too late: the kernel lends more than there is and kills the process that touches it.
So whoever is about to take much asks here first. A container's limit counts as the machine's does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Where the controller of memory lies, what a group is granted, what it holds, and of that the cached files which nobody
# has touched lately, which the kernel drops before it kills: control groups of version 2 and 1. As the kubelet counts.
_VERSIONS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
# What version 1 says of a group without a limit is the largest number of whole pages, 2**63 less one page.
_UNLIMITED = 2**62


def free_memory(device: torch.device, wanted: int = 0) -> int:
    """Return the bytes that can still be taken on a device; on a CPU without swapping, see `swap_left`.

    Args:
        device: of the engine.
        wanted: what is to be taken. Where less seems to be free on a CPU, pages that were freed and that the C library
            keeps for later are given back first.
    """
    if device.type == "cuda":
        # What torch's allocator keeps for later is free for tensors.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = _free_on_host()
    if free < wanted:
        _TRIM()
        free = _free_on_host()
    return free


def _free_on_host() -> int:
    return max(0, min((psutil.virtual_memory().available, *_left_in_groups(_GROUPS, _OWN_GROUPS))))


def swap_left() -> int:
    """Return the bytes that a host can still swap out. Slow, but nobody is killed before they are gone."""
    return psutil.swap_memory().free


def _left_in_groups(groups: Path, own: Path) -> Iterable[int]:
    """Yield what is left of the limits of this process's control group and of those that it lies in.

    Asked before every pass and every adapter: with plain strings, because paths as objects take longer than the files.
    """
    paths = dict(line.split(":", 2)[1:] for line in (_read(str(own)) or "").splitlines())
    for controller, limit, held, cached in _VERSIONS:
        root = str(groups / controller)
        # Seen from inside, a container's own group is the root, and the path that the kernel tells may lie outside.
        names = [name for name in paths.get(controller, "/").strip().split("/") if name]
        for depth in range(len(names), -1, -1):
            group = "/".join((root, *names[:depth]))
            granted = _read(f"{group}/{limit}")
            if granted is None or granted.strip() == "max" or int(granted) >= _UNLIMITED:
                continue
            used = _read(f"{group}/{held}")
            if used is not None:
                yield int(granted) - int(used) + _cached(_read(f"{group}/memory.stat") or "", cached)


def _read(path: str) -> str | None:
    """Return the text of a file, None where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _cached(stat: str, name: str) -> int:
    rows = (line.split() for line in stat.splitlines())
    return next((int(value) for key, value in rows if key == name), 0)


def find_trim() -> Callable[[], object]:
    """Return what gives the heap's freed pages back to the system; where nothing can, it does nothing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    # Another C library than glibc, which gives memory back by itself or not at all; Windows has no such handle.
    except (AttributeError, OSError, TypeError):
        return lambda: None
    trim.argtypes = (ctypes.c_size_t,)
    trim.restype = ctypes.c_int
    return lambda: trim(0)


_TRIM = find_trim()
