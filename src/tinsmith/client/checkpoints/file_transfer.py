"""Files that go to a service or come from it piece by piece, so that none has to fit into memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.exchange import checked, idempotency_key, timeouts
from tinsmith.types.names.http_names import BINARY, IDEMPOTENCY_KEY_HEADER

if TYPE_CHECKING:
    import httpx

# Large enough that going to a thread for each piece costs nothing beside reading or writing it.
_PIECE_BYTES = 2**20
# Between two pieces of an upload the service writes to its disk, and after the last one it checks the whole.
_UPLOAD_TIMEOUT_S = 300.0


async def fetch_file(connection: Connection, path: str, target: Path) -> None:
    """Write the body of a GET into a file, beginning anew while the service is away; errors as for `send`."""

    async def ask(http: httpx.AsyncClient) -> httpx.Response:
        # Opened at each try: what a broken one has left is written over.
        with target.open("wb") as out:
            timeout = timeouts(connection.settings.client_timeout_s)
            async with http.stream("GET", connection.api + path, timeout=timeout) as response:
                if response.status_code >= 400:
                    # The refusal itself is short, and wanted after the stream is closed.
                    await response.aread()
                    return response
                async for piece in response.aiter_bytes(_PIECE_BYTES):
                    await asyncio.to_thread(out.write, piece)
        return response

    checked(await connection.persist(ask))


async def upload_file(connection: Connection, path: str, head: bytes, file: Path) -> httpx.Response:
    """POST `head` and a file behind it, beginning anew while the service is away; errors as for `send`."""
    headers = {
        # One key for all tries: an upload that arrived whole, and whose answer was lost, is not taken in twice.
        IDEMPOTENCY_KEY_HEADER: idempotency_key(),
        "Content-Type": BINARY,
        # Without it a body that is generated is sent in chunks, and nobody on the way knows how long it will be.
        "Content-Length": str(len(head) + file.stat().st_size),
    }

    async def body() -> AsyncIterator[bytes]:
        yield head
        with file.open("rb") as opened:
            while piece := await asyncio.to_thread(opened.read, _PIECE_BYTES):
                yield piece

    async def ask(http: httpx.AsyncClient) -> httpx.Response:
        # A body that is generated can be sent once; every try makes its own.
        timeout = timeouts(_UPLOAD_TIMEOUT_S)
        return await http.post(connection.api + path, content=body(), headers=headers, timeout=timeout)

    return checked(await connection.persist(ask))
