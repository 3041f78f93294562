"""The service on a TCP port: uvicorn, stopped in an orderly way by SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from tinsmith.server.http.app import create_app
from tinsmith.server.http.connections import Connections
from tinsmith.server.http.patience import patient
from tinsmith.server.http.seldom import Seldom
from tinsmith.server.service import Service
from tinsmith.types.errors import StartupError

# How long requests that are being answered may take after a stop was asked for, seconds.
_GRACE_S = 5
# Longer than clients keep idle connections, so that it is never the server who closes under a new request.
_KEEP_ALIVE_S = 75
# Connections that are accepted in one round of the event loop, below the descriptors that are held in reserve: each is
# counted, and one too many is closed, only in the next round. And those that may wait for that.
_ACCEPTED_AT_ONCE = 32
_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: they would end the process before the service is stopped."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio has one number for both: how many may wait, and how many it accepts at once.
        for listening in sockets or ():
            listening.listen(_BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Answers HTTP requests to a service.

    Args:
        service: that was or will be started by the caller.
        host: as it was asked for.
        listening: what `bind` gave; closed when `run` ends.

    Attributes:
        connections: the open ones.
        port: the port it is bound to; where port 0 was asked for, the free one that was found.
    """

    def __init__(self, service: Service, host: str, listening: socket.socket) -> None:
        self._service = service
        self._host = host
        settings = service.core.settings
        self.connections = Connections(settings, service.core.metrics)
        config = uvicorn.Config(
            create_app(service),
            http=patient(settings, self.connections),
            ws="none",
            log_config=None,
            access_log=False,
            backlog=_ACCEPTED_AT_ONCE,
            # The caller starts and stops the service itself, and has set up logging.
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _Server(config)
        self._socket = listening
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where clients of this machine find the service."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    async def run(self) -> None:
        """Answer requests until a signal asks to stop."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.stop)
        seldom, loggers = Seldom(), [logging.getLogger(name) for name in ("asyncio", "uvicorn.error")]
        for one in loggers:
            one.addFilter(seldom)
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            for one in loggers:
                one.removeFilter(seldom)
            self._socket.close()

    def stop(self) -> None:
        """Stop soon; asked twice, at once."""
        # Read before it is written: the first call finds it False, the second True.
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True
        self._service.drain()


def bind(host: str, port: int) -> socket.socket:
    """Take an address before anything else is started: whoever asked for one that cannot be had is told at once.

    Args:
        host: a name or address of this machine.
        port: 0 takes a free one.

    Raises:
        StartupError: it cannot be had; names the option that is to blame.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # `UnicodeError` for a label that is empty or too long.
    except (OSError, UnicodeError) as error:
        raise _no_host(host, error) from None
    # asyncio turns Nagle's delay (40 ms per answer) off only where the protocol is named.
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _no_host(host, error) from None
        raise StartupError(
            f"--port: got {port} on {host}, which cannot be had ({error.strerror}), expected a free one"
        ) from None
    return sock


def _no_host(host: str, error: Exception) -> StartupError:
    reason = getattr(error, "strerror", None) or str(error)
    expected = "a name or address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    return StartupError(f"--host: got {host!r}, where nobody can listen ({reason}), expected {expected}")
