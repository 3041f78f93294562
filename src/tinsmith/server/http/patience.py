"""HTTP connections that wait for a client only so long."""

from __future__ import annotations

import asyncio
from typing import Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tinsmith.server.http.connections import Connections
from tinsmith.server.http.one_write import OneWrite
from tinsmith.settings import ServerSettings

# Bytes of a body per second below which its client is holding on rather than sending.
_LEAST_RATE = 1024
# Bytes that a request's line and headers may have, as other servers hold it; the parser itself knows no limit.
_MOST_HEADER_BYTES = 64 * 1024
# Requests that a client may send ahead of their answers on one connection. Each is parsed and held, at many times the
# bytes that it came with.
_MOST_AHEAD = 16

# How far the request is that a connection is at: awaited, begun, its headers are here, all of it is here.
Phase = Literal["idle", "header", "body", "whole"]


def patient(settings: ServerSettings, connections: Connections) -> type[HttpToolsProtocol]:
    """Return a protocol for uvicorn that counts its connections and closes slow ones.

    A request that is whole is answered in whatever time that takes: a long poll has no timer.

    Args:
        settings: how long headers and bodies may take.
        connections: where they are counted.
    """

    class Patient(HttpToolsProtocol):
        address = ""
        # A connection that was just made owes a request.
        _phase: Phase = "header"
        _timer: asyncio.TimerHandle | None = None
        # What the timer waits for: `header` or `body`.
        _awaited: str | None = None
        _received = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(OneWrite(transport, self.loop))
            self.address = self.client[0] if self.client else ""
            self._await("header")
            connections.add(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self._await(None)
            connections.remove(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._received += len(data)
            super().data_received(data)
            self._watch()

        def on_message_begin(self) -> None:
            self._phase = "header"
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._phase = "body"
            if len(self.pipeline) >= _MOST_AHEAD:
                # The parser takes it for an error in the request: 400, and the connection is closed.
                raise ValueError(f"more than {_MOST_AHEAD} requests were sent ahead of their answers")
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            # One that was answered before all of it came is over.
            self._phase = "idle" if self.cycle.response_complete else "whole"

        def on_response_complete(self) -> None:
            assert isinstance(self.transport, OneWrite)
            self.transport.flush()
            if self._phase == "whole" and not self.pipeline:
                self._phase = "idle"
            super().on_response_complete()
            self._watch()

        def drop(self) -> None:
            self._await(None)
            self.transport.abort()

        def _watch(self) -> None:
            """Set the timer to what the client owes now."""
            if self.transport.is_closing():
                self._await(None)
                return
            answering = self._answering()
            connections.waits(self, not answering)
            if self._phase in ("header", "body") and not answering:
                self._await(self._phase)
                if self._phase == "header" and self._received > _MOST_HEADER_BYTES:
                    self.send_400_response(f"headers: got more than {_MOST_HEADER_BYTES} bytes, expected fewer")
                return
            self._await(None)
            if not answering and self.timeout_keep_alive_task is None:
                # The rest of a body that was answered early came in, which cancelled the timer of idle ones.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def _answering(self) -> bool:
            """Whether it is the service's turn: the newest request is whole, or one before it has no answer yet."""
            if self._phase == "header":
                return self.cycle is not None and not self.cycle.response_complete
            return self._phase == "whole" or bool(self.pipeline)

        def _await(self, awaited: str | None) -> None:
            # A timer that runs goes on: a byte now and then must not put it off.
            if awaited == self._awaited:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._awaited = None, awaited
            if awaited is not None:
                self._received = 0
                seconds = settings.header_timeout_s if awaited == "header" else settings.body_timeout_s
                self._timer = self.loop.call_later(seconds, self._late)

        def _late(self) -> None:
            awaited, received = self._awaited, self._received
            self._timer = self._awaited = None
            # Paused: it is the service that has yet to read. What still comes of a body that was answered, a refused
            # one that is too large say, is read so that the client sees the answer, but not for ever.
            slow = not self.flow.read_paused and received < _LEAST_RATE * settings.body_timeout_s
            if awaited == "body" and not slow and not self.cycle.response_complete:
                self._await("body")
            else:
                connections.close(self, f"slow_{awaited}")

    return Patient
