"""How many requests of each key are being answered right now."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from tinsmith.server.faults import Unavailable
from tinsmith.server.http.connections import most_connections
from tinsmith.settings import ServerSettings


class OpenRequests:
    """The open requests, by owner: one key must not hold all connections, from however many addresses it comes.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.most = settings.max_open_requests_per_key or max(1, most_connections(settings) // 2)
        self.open: collections.Counter[str] = collections.Counter()

    @contextmanager
    def one_more(self, owner: str, refused: Counter) -> Iterator[None]:
        """Count a request until it has been answered.

        Args:
            owner: whose it is.
            refused: counts who is turned away, by limit.

        Raises:
            Unavailable: its owner has as many as it may (429).
        """
        if self.open[owner] >= self.most:
            refused.labels("max_open_requests_per_key").inc()
            raise Unavailable(
                f"requests: got one more than the {self.open[owner]} of yours that are being answered, expected at "
                f"most {self.most} for one key (TINSMITH_MAX_OPEN_REQUESTS_PER_KEY); poll for fewer results at once",
                429,
            )
        self.open[owner] += 1
        try:
            yield
        finally:
            self.open[owner] -= 1
            if not self.open[owner]:
                del self.open[owner]
