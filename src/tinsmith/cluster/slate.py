"""What an engine process is working on, written where it can still be read when the process is gone.

A few pages of memory that both processes map: the child writes, which costs a copy and no system call, and the parent
reads once the child is dead. A file on a disk would do the same at the price of writing it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Iterable

# Room for the ids of some thirty thousand operations, far more than run at once. Pages that nobody writes to cost
# nothing.
_BYTES = 1 << 20
# Whether it is being written to, and the length of what stands behind.
_HEAD = struct.Struct("<QQ")
_ROOM = _BYTES - _HEAD.size
_READY, _WRITING = 0, 1


class Slate:
    """The ids of the operations that are being run.

    Args:
        fd: what `make_memory` returned, in this process or in its parent; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _BYTES)

    def write(self, ids: Iterable[str]) -> None:
        """Note what is about to be run, in place of what was noted before; ids beyond the room are left out."""
        text = "\n".join(ids).encode()
        if len(text) > _ROOM:
            text = text[: text.rindex(b"\n", 0, _ROOM)]
        # A process that dies has done all that it did before and nothing after: one mark is enough to know half a text.
        _HEAD.pack_into(self._map, 0, _WRITING, 0)
        self._map[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._map, 0, _READY, len(text))

    def read(self) -> tuple[str, ...]:
        """Return what was noted last; nothing where the process died while it wrote."""
        state, length = _HEAD.unpack_from(self._map, 0)
        if state != _READY or length > _ROOM:
            return ()
        text = self._map[_HEAD.size : _HEAD.size + length].decode()
        return tuple(text.split("\n")) if text else ()

    def close(self) -> None:
        """Unmap it."""
        self._map.close()


def make_memory() -> int:
    """Return a descriptor of memory that a child can be given; whoever asked closes it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tinsmith-slate")
        os.ftruncate(fd, _BYTES)
        return fd
    with tempfile.TemporaryFile() as file:
        # Written and not only made long: on a full disk a hole in it would end the process that fills it.
        file.write(bytes(_BYTES))
        file.flush()
        return os.dup(file.fileno())
