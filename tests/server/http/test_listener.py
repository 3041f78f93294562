"""The listening socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tinsmith.server.http.listener import bind
from tinsmith.types.errors import StartupError


def test_connections_send_small_answers_at_once() -> None:
    async def run() -> None:
        found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket"))

        listening = bind("127.0.0.1", 0)
        server = await asyncio.start_server(connected, sock=listening)
        _, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            no_delay = (await found).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            writer.close()
            server.close()
        assert no_delay

    asyncio.run(run())


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            StartupError, match=rf"--port: got {port} on 127\.0\.0\.1, which cannot be had \(Address already in use\)"
        ):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7", "local host", "a..b", "x" * 70, "256.1.1.1"])
def test_a_host_that_is_none_of_this_machine_is_named(host: str) -> None:
    with pytest.raises(StartupError, match=f"--host: got '{host}', where nobody can listen"):
        bind(host, 0)
