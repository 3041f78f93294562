"""Connections of clients that are slow, idle or many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from tests.server.conftest import Running, Start, soon
from tinsmith.server.http import connections
from tinsmith.server.http.listener import Listener, bind
from tinsmith.server.http.one_write import OneWrite
from tinsmith.server.http.seldom import Seldom

pytestmark = pytest.mark.anyio

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = (
    b"POST /api/v1/create_session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@asynccontextmanager
async def listening(running: Running) -> AsyncIterator[Listener]:
    listener = Listener(running.service, "127.0.0.1", bind("127.0.0.1", 0))
    task = asyncio.create_task(listener.run())
    await soon(lambda: listener._server.started)
    try:
        yield listener
    finally:
        listener.stop()
        await task


async def half(listener: Listener, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(sent)
    return reader, writer


async def health(listener: Listener) -> bytes:
    reader, writer = await half(listener, HEALTH)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return line


async def ended(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    return True


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
async def test_health_answers_beside_more_half_requests_than_there_is_room_for(start: Start, limit: str) -> None:
    async with listening(await start(**{limit: 200})) as listener:
        held = [await half(listener, b"GET /healthz HTTP/1.1\r\n") for _ in range(260)]
        assert b"200" in await health(listener)
        assert len(listener.connections) <= 200
        for _, writer in held:
            writer.close()


async def test_no_more_are_accepted_in_a_round_than_there_are_descriptors_in_reserve(start: Start) -> None:
    """Those beyond the limit are closed only in the next round; the service's own files need descriptors meanwhile."""
    async with listening(await start()) as listener:
        assert listener._server.config.backlog < connections._RESERVE
        # The kernel holds more than that for the rounds to come.
        held = [await half(listener, b"") for _ in range(3 * listener._server.config.backlog)]
        assert b"200" in await health(listener)
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", POST % 9, POST % 9 + b"{"])
async def test_a_client_that_does_not_go_on_is_closed(start: Start, sent: bytes) -> None:
    async with listening(await start(header_timeout_s=0.1, body_timeout_s=0.1)) as listener:
        reader, writer = await half(listener, sent)
        assert await ended(reader)
        await soon(lambda: len(listener.connections) == 0)
        writer.close()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nX: ", POST % 10_000])
async def test_a_byte_now_and_then_puts_nothing_off(start: Start, sent: bytes) -> None:
    async with listening(await start(header_timeout_s=0.2, body_timeout_s=0.2)) as listener:
        _, writer = await half(listener, sent)
        await soon(lambda: len(listener.connections) == 1)
        for _ in range(100):
            writer.write(b"a")
            await asyncio.sleep(0.02)
            if not len(listener.connections):
                break
        assert len(listener.connections) == 0
        writer.close()


async def test_a_body_that_makes_progress_is_read_to_its_end(start: Start) -> None:
    running = await start(header_timeout_s=0.1, body_timeout_s=0.1)
    async with listening(running) as listener:
        key = await running.service.keys.create("local", "test")
        with_key = (POST % 80_000).replace(b"Host: x", b"Host: x\r\nX-API-Key: " + key.encode())
        reader, writer = await half(listener, with_key)
        for _ in range(20):
            writer.write(b" " * 4000)
            await asyncio.sleep(0.02)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 4")
        writer.close()


async def test_a_body_that_was_answered_is_not_read_for_ever(start: Start) -> None:
    async with listening(await start(body_timeout_s=0.2)) as listener:
        reader, writer = await half(listener, POST % 10**12)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 4")
        for _ in range(200):
            writer.write(b" " * 4000)
            await asyncio.sleep(0.02)
            if not len(listener.connections):
                break
        assert len(listener.connections) == 0
        writer.close()


async def test_a_whole_request_has_no_timer(start: Start) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    running = await start(header_timeout_s=0.05, body_timeout_s=0.05)
    async with listening(running) as listener:

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            asked.set()
            await answer.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        listener._server.config.loaded_app = slow
        reader, writer = await half(listener, HEALTH)
        await asked.wait()
        await asyncio.sleep(0.3)
        answer.set()
        assert b"200" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def answers(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    """Read so many answers from a connection; return their bodies."""
    bodies: list[bytes] = []
    for _ in range(count):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        bodies.append(await reader.readexactly(int(length.split(b":")[1])))
    return bodies


async def test_requests_that_are_sent_ahead_are_answered_in_order(start: Start) -> None:
    running = await start(header_timeout_s=0.3)
    async with listening(running) as listener:

        async def echo(scope: Any, receive: Any, send: Any) -> None:
            # The first takes longest.
            await asyncio.sleep(0.05 if scope["path"] == "/0" else 0)
            body = scope["path"].encode()
            head = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": body})

        listener._server.config.loaded_app = echo
        reader, writer = await half(listener, b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(8)))
        assert await answers(reader, 8) == [b"/%d" % i for i in range(8)]
        # What comes behind them has the usual time, and then the connection is as good as new.
        writer.write(b"GET /8 HTTP/1.1\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"Host: x\r\n\r\n")
        assert await answers(reader, 1) == [b"/8"]
        writer.write(b"GET /9 HTTP/1.1\r\n")
        assert await ended(reader)
        writer.close()


async def test_a_client_that_sends_ahead_without_end_is_turned_away(start: Start) -> None:
    async with listening(await start()) as listener:
        never = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await never.wait()

        listener._server.config.loaded_app = slow
        reader, writer = await half(listener, HEALTH * 1000)
        assert b"400" in await asyncio.wait_for(reader.readline(), 5)
        assert await ended(reader)
        writer.close()
        never.set()


@pytest.mark.parametrize("head", [b"X: " + b"a" * 200_000, b"X: a\r\n" * 40_000], ids=["long", "many"])
async def test_headers_without_end_are_turned_away(start: Start, head: bytes) -> None:
    async with listening(await start()) as listener:
        reader, writer = await half(listener, b"GET /healthz HTTP/1.1\r\n" + head)
        assert b"400" in await asyncio.wait_for(reader.readline(), 5)
        assert await ended(reader)
        writer.close()
        assert b"200" in await health(listener)


async def test_an_upgrade_that_is_not_known_is_passed_over(start: Start) -> None:
    """As `curl --http2` asks for it."""
    async with listening(await start()) as listener:
        ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        reader, writer = await half(listener, ask + b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
        assert b"200" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def test_a_small_answer_is_one_system_call(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = OneWrite.flush

    def noted(self: OneWrite) -> None:
        if self._parts:
            written.append(b"".join(self._parts))
        write(self)

    monkeypatch.setattr(OneWrite, "flush", noted)
    async with listening(await start()) as listener:
        assert b"200" in await health(listener)
    (answer,) = written
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"}")


async def test_a_large_answer_is_not_gathered(start: Start) -> None:
    """A client that reads slowly holds the answer up, and not the service's memory."""
    sent = 0
    async with listening(await start()) as listener:

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(2000):
                await send({"type": "http.response.body", "body": b"x" * 50_000, "more_body": True})
                sent += 50_000

        listener._server.config.loaded_app = endless
        _, writer = await half(listener, HEALTH)
        await soon(lambda: sent > 0)
        await asyncio.sleep(0.3)
        assert sent < 20_000_000
        writer.transport.abort()


@pytest.mark.parametrize("body", [b"[]", b"{", b" " * 1_500_000])
async def test_after_a_refusal_the_connection_goes_on_or_says_that_it_does_not(start: Start, body: bytes) -> None:
    running = await start(max_json_mb=1)
    async with listening(running) as listener:
        headers = {"X-API-Key": await running.service.keys.create("local", "test")}
        async with httpx.AsyncClient(base_url=listener.url, headers=headers) as client:
            refused = await client.post("/api/v1/create_session", content=body)
            assert 400 <= refused.status_code < 500
            assert (await client.get("/healthz")).status_code == 200


async def test_malformed_requests_are_logged_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(await start()) as listener:
        for _ in range(20):
            reader, writer = await half(listener, b"\x00\x01\r\n\r\n")
            assert b"400" in await asyncio.wait_for(reader.readline(), 5)
            writer.close()
    assert [record.message for record in caplog.records].count("Invalid HTTP request received.") == 1


def test_a_loop_without_descriptors_says_so_once_and_other_errors_always() -> None:
    seldom = Seldom()

    def passes(text: str) -> bool:
        return seldom.filter(logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, None))

    assert [passes(f"socket.accept() out of system resource\nsocket: {n}") for n in range(3)] == [True, False, False]
    assert passes("Task exception was never retrieved")
    assert passes("Task exception was never retrieved")
