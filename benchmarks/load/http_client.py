"""HTTP/1.1 as lean as it can be: the load's client shares two cores with the service that it measures.

Requests are bytes that were made before; answers are read as far as this service's answers go (a status, a length, a
body). A library's client spends more on a request than the service does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"the service closed the connection ({exc})"))

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future is done once its answer is complete."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(self._buffer[:head]).lower()
        length = _content_length(headers)
        if len(self._buffer) < head + 4 + length:
            return
        answer = Answer(int(headers[9:12]), bytes(self._buffer[head + 4 : head + 4 + length]))
        self._buffer.clear()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


def _content_length(headers: bytes) -> int:
    start = headers.find(b"content-length:")
    if start < 0:
        return 0  # 204
    end = headers.find(b"\r\n", start)
    return int(headers[start + 15 : end if end >= 0 else len(headers)])


class HttpClient:
    """Connections to one service, as many as there are requests at once."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._address = (host, port)
        self._head = f"Host: {host}:{port}\r\nX-API-Key: {key}\r\n"
        self._free: deque[_Connection] = deque()

    def request(self, method: str, path: str, body: bytes = b"{}", media_type: str = "application/json") -> bytes:
        """Return a request as bytes, to be sent as often as one likes."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Type: {media_type}\r\nContent-Length: {len(body)}"
        return f"{head}\r\n\r\n".encode() + body

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            OSError: the connection could not be made, or was closed.
        """
        connection = await self._connection()
        answer = await connection.send(request)
        self._free.append(connection)
        return answer

    async def _connection(self) -> _Connection:
        while self._free:
            # The one that was used last, so that those beyond today's need rest.
            connection = self._free.pop()
            if not connection.lost:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection

    def close(self) -> None:
        """Close the connections that are free."""
        while self._free:
            self._free.pop().close()
