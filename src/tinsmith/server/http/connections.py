"""How many connections the service holds, and which one leaves when there is no room."""

from __future__ import annotations

import resource
from typing import Protocol

from tinsmith.server.state.prometheus import Metrics
from tinsmith.settings import ServerSettings

# Descriptors for everything else: the database, blobs, checkpoints, pipes to the engine.
_RESERVE = 64
# Where descriptors are as good as unlimited, memory is what connections run out of.
_MANY = 65_536


class Connection(Protocol):
    """What is counted."""

    address: str

    def drop(self) -> None:
        """Close at once."""
        ...


class Connections:
    """The open connections, in all and per address.

    Args:
        settings: the limits.
        metrics: counts what is open and what was closed early.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.most = most_connections(settings)
        self.most_per_address = settings.max_connections_per_address or max(1, self.most // 2)
        self._metrics = metrics
        self._open: set[Connection] = set()
        self._per_address: dict[str, int] = {}
        # Those without a whole request, the one that has waited longest first.
        self._waiting: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Count a new connection; over a limit, one is dropped: it or one that has waited longer."""
        address = connection.address
        self._open.add(connection)
        self._per_address[address] = self._per_address.get(address, 0) + 1
        self._waiting[connection] = None
        if self._per_address[address] > self.most_per_address:
            # Of the same address, so that nobody pays for another; a new request finds room where old ones idle.
            mine = (one for one in self._waiting if one.address == address)
            self.close(next(mine), "address_limit")
        elif len(self._open) > self.most:
            self.close(next(iter(self._waiting)), "limit")
        self._metrics.connections.set(len(self._open))

    def remove(self, connection: Connection) -> None:
        """Forget a connection; one that was forgotten already is no mistake."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._waiting.pop(connection, None)
        self._per_address[connection.address] -= 1
        if not self._per_address[connection.address]:
            del self._per_address[connection.address]
        self._metrics.connections.set(len(self._open))

    def waits(self, connection: Connection, waiting: bool) -> None:
        """Note whether a connection has yet to send a whole request."""
        if not waiting:
            self._waiting.pop(connection, None)
        elif connection in self._open:
            self._waiting.setdefault(connection)

    def close(self, connection: Connection, reason: str) -> None:
        """Drop a connection and say why in the metrics."""
        self._metrics.dropped.labels(reason).inc()
        # At once, because the transport says that it is closed only in a later turn of the loop.
        self.remove(connection)
        connection.drop()


def most_connections(settings: ServerSettings) -> int:
    """Return how many connections may be open."""
    return settings.max_connections or max(1, min(descriptors() - _RESERVE, _MANY))


def descriptors() -> int:
    """Return how many descriptors this process may open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MANY if soft == resource.RLIM_INFINITY else soft


def raise_descriptors() -> None:
    """Raise the soft limit of descriptors to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
