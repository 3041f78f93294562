"""A request's body that is read piece by piece, because it is too large to be held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
from starlette.requests import ClientDisconnect

from tinsmith.types.errors import UserError, invalid

# So much is gathered before another thread writes it.
_SLICE = 4 * 2**20


class Upload:
    """Reads a body in order, at most `limit` bytes of it.

    Every method raises UserError where the body is too long (413), or shorter than what is asked for.
    """

    def __init__(self, stream: AsyncIterator[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._taken = 0
        self._held = bytearray()

    async def _more(self) -> bool:
        """Hold one more piece; False at the end of the body."""
        piece: bytes | None = b""
        while piece == b"":  # as which the end may be announced
            try:
                piece = await anext(self._stream, None)
            except ClientDisconnect as error:
                raise UserError("body: got a part of it, expected all of it") from error
        if piece is None:
            return False
        self._taken += len(piece)
        if self._taken > self._limit:
            raise invalid("body", f"more than {self._limit} bytes", f"at most {self._limit} bytes", status=413)
        self._held += piece
        return True

    async def line(self, limit: int) -> bytes:
        """Read to the first line break, which is left out."""
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > limit:
                raise invalid("body", f"no line break in {limit} bytes", "a line of JSON before the file")
            if not await self._more():
                raise invalid("body", f"{len(self._held)} bytes without a line break", "a line of JSON before the file")
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def take(self, count: int, what: str) -> bytes:
        """Read so many bytes; `what` is what messages call them."""
        while len(self._held) < count:
            if not await self._more():
                raise invalid(what, f"{len(self._held)} bytes", f"{count} bytes")
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def copy(self, file: Path, count: int, what: str, alive: Callable[[], object]) -> None:
        """Append so many bytes, which must be all that is left, to a file.

        Messages call them `what`; `alive` is called after every piece.
        """
        left = count
        while left:
            while len(self._held) < min(left, _SLICE):
                if not await self._more():
                    raise invalid(what, f"{count - left + len(self._held)} bytes of data", f"{count} bytes")
            piece = bytes(self._held[:left])
            del self._held[:left]
            left -= len(piece)
            # Opened anew for each slice: an upload that ends half-way leaves no open file behind.
            await anyio.to_thread.run_sync(_append, file, piece)
            alive()
        if self._held or await self._more():
            raise invalid(what, f"more than {count} bytes of data", f"{count} bytes, as its header says")

    async def drain(self) -> None:
        """Read the rest, up to the limit, and drop it: a client that is refused while it sends may not see why."""
        self._held.clear()
        self._taken = 0
        with suppress(UserError):
            while await self._more():
                self._held.clear()


def _append(file: Path, piece: bytes) -> None:
    with file.open("ab") as out:
        out.write(piece)
