"""A transport that sends what is written within one round of the event loop together."""

from __future__ import annotations

import asyncio
from typing import Any

# More than this is sent at once: a large answer must feel that its client reads slowly, and not pile up here.
_MOST_BYTES = 64 * 1024


class OneWrite(asyncio.Transport):
    """Sends the head and the body of an answer by one system call.

    uvicorn writes each by itself, and asyncio sends each as it comes. A call costs as much as all else that is done for
    a small answer, and lets another thread take the interpreter meanwhile.

    Args:
        transport: that is written to.
        loop: whose rounds count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._timer: asyncio.Handle | None = None

    def write(self, data: Any) -> None:
        self._parts.append(bytes(data))
        self._size += len(data)
        if self._size > _MOST_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_soon(self._round_ended)

    def flush(self) -> None:
        """Send what is there now."""
        if not self._parts:
            return
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        # Of a client that has left nothing can be told.
        if not self._transport.is_closing():
            self._transport.write(data)

    def _round_ended(self) -> None:
        self._timer = None
        self.flush()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._parts.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
