"""HTTP connections that wait for a client only so long."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinsmith.server.http.connections import Connections
from tinsmith.settings import ServerSettings

# Bytes of a body per second below which its client is holding on rather than sending.
_LEAST_RATE = 1024


def patient(settings: ServerSettings, connections: Connections) -> type[H11Protocol]:
    """Return a protocol for uvicorn that counts its connections and closes slow ones.

    A request that is whole is answered in whatever time that takes: a long poll has no timer.

    Args:
        settings: how long headers and bodies may take.
        connections: where they are counted.
    """

    class Patient(H11Protocol):
        address = ""
        _timer: asyncio.TimerHandle | None = None
        # What the timer waits for: `header` or `body`.
        _awaited: str | None = None
        _received = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
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

        def on_response_complete(self) -> None:
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
            state = self.conn.their_state
            connections.waits(self, state in (h11.IDLE, h11.SEND_BODY))
            if state is h11.SEND_BODY:
                self._await("body")
            elif state is h11.IDLE and self.conn.trailing_data[0]:
                self._await("header")
            else:
                self._await(None)
                if state is h11.IDLE and self.timeout_keep_alive_task is None:
                    # The rest of a body that was answered early came in, which cancelled the timer of idle ones.
                    self.timeout_keep_alive_task = self.loop.call_later(
                        self.timeout_keep_alive, self.timeout_keep_alive_handler
                    )

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
            # Paused: it is the service that has yet to read.
            if awaited == "body" and (self.flow.read_paused or received >= _LEAST_RATE * settings.body_timeout_s):
                self._await("body")
            else:
                connections.close(self, f"slow_{awaited}")

    return Patient
