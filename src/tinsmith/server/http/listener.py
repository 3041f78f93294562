"""The service on a TCP port: uvicorn, stopped in an orderly way by SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.types.errors import StartupError

# How long requests that are being answered may take after a stop was asked for, seconds.
_GRACE_S = 5
# Longer than clients keep idle connections, so that it is never the server who closes under a new request.
_KEEP_ALIVE_S = 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: they would end the process before the service is stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Answers HTTP requests to a service.

    Attributes:
        port: the port it is bound to; where port 0 was asked for, the free one that was found.

    Raises:
        StartupError: the address cannot be had.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        self._host = host
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            # The caller starts and stops the service itself, and has set up logging.
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        # Bound here, not when it runs: whoever asked for port 0 is told the number, and a port that is taken is told
        # before anything else.
        self._server = _Server(config)
        self._socket = _bind(host, port)
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
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            self._socket.close()

    def stop(self) -> None:
        """Stop soon; asked twice, at once."""
        # Read before it is written: the first call finds it False, the second True.
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True
        self._service.drain()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio turns Nagle's delay (40 ms per answer) off only where the protocol is named.
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise StartupError(
            f"--port: got {host}:{port}, which cannot be had ({error.strerror}), expected a free one"
        ) from None
    return sock
