"""The engine process's end of the socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tinsmith.cluster.engine_main import Channel
from tinsmith.cluster.frames import FrameDecoder
from tinsmith.types.engine_messages.host_events import Result
from tinsmith.types.names.http_names import JSON

_LARGE = bytes(300_000)


class Parent:
    """The other end, which reads when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = FrameDecoder()
        self._messages: list[dict[str, Any]] = []

    def read(self, events: int) -> list[dict[str, Any]]:
        """Return so many events that came."""
        while len(self._messages) < events:
            data = self.sock.recv(1 << 16)
            assert data
            self._messages += [m for m in self._decoder.feed(data) if "beat" not in m]
        found, self._messages = self._messages[:events], self._messages[events:]
        return found


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Channel, Parent]]:
    left = threading.Event()

    # The end of the socket ends the process, which here is that of the tests.
    monkeypatch.setattr("os._exit", lambda status: left.set())
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(theirs, lambda message: None, lambda: None)
        with ours:
            yield channel, Parent(ours)
            channel.close()
        assert left.wait(10)


def result(number: int, payload: bytes = b"{}") -> Result:
    return Result(f"r{number}", payload, JSON)


def test_events_leave_together_with_a_push(ends: tuple[Channel, Parent]) -> None:
    channel, parent = ends
    for number in range(3):
        channel.send_event(result(number))
    channel.push()
    assert [message["request_id"] for message in parent.read(3)] == ["r0", "r1", "r2"]


def test_what_the_socket_does_not_take_follows_in_its_order(ends: tuple[Channel, Parent]) -> None:
    channel, parent = ends
    # Returns, although nobody reads and the socket takes less than one of them.
    for number in range(10):
        channel.send_event(result(number, _LARGE))
        channel.push()
    channel.send({"broken": "said last"})
    messages = parent.read(11)
    assert [message["request_id"] for message in messages[:10]] == [f"r{number}" for number in range(10)]
    assert messages[10] == {"broken": "said last"}
    # And then it is quick again.
    channel.send_event(result(11))
    channel.push()
    assert parent.read(1)[0]["request_id"] == "r11"


def test_the_end_waits_for_what_is_left(ends: tuple[Channel, Parent]) -> None:
    channel, parent = ends
    closing = threading.Thread(target=channel.close)
    for number in range(5):
        channel.send_event(result(number, _LARGE))
    closing.start()
    assert len(parent.read(5)) == 5
    closing.join(10)
    assert not closing.is_alive()
