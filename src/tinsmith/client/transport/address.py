"""Where a service is, and the HTTP client that reaches it there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinsmith.client.transport import embedding
from tinsmith.types.errors import invalid
from tinsmith.types.names.http_names import API_KEY_HEADER, API_PREFIX
from tinsmith.version import __version__

if TYPE_CHECKING:
    import httpx

    from tinsmith.settings import Settings

# The embedded service is reached without a network; httpx wants a URL all the same.
_EMBEDDED_URL = "http://embedded.tinsmith"
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# Sockets kept open between requests. Polls for results may need many more for a while: their number is bounded where
# they are made, and a limit here would let polls keep the next batch from being sent.
_IDLE_SOCKETS = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is; as text, it is what a message says: `the service at http://...`.

    Attributes:
        base_url: without a slash at the end, a path prefix kept; None is the embedded service of this process.
    """

    base_url: str | None

    @classmethod
    def of(cls, base_url: str | None) -> Address:
        """Read an address.

        Raises:
            UserError: `base_url` is no URL.
            TinsmithError: no URL was given and no service can run in this process.
        """
        if base_url is None:
            embedding.check_available()
        elif not base_url.startswith(("http://", "https://")):
            raise invalid("base_url", base_url, "http://... or https://...")
        return cls(base_url.rstrip("/") if base_url else None)

    def __str__(self) -> str:
        return f"the service at {self.base_url}" if self.base_url else "the embedded service"

    @property
    def api(self) -> str:
        """What the path of every route is put behind."""
        return f"{self.base_url or _EMBEDDED_URL}{API_PREFIX}/"

    async def http_client(self, settings: Settings, headers: Mapping[str, str]) -> httpx.AsyncClient:
        """Make the client that reaches it; the embedded service is started on the way.

        Args:
            settings: give the API key, and configure an embedded service.
            headers: of every request, besides ours; the later word is theirs.
        """
        import httpx

        sent = {
            "User-Agent": f"tinsmith/{__version__} Python/{platform.python_version()}",
            "x-sdk-version": __version__,
            **({API_KEY_HEADER: settings.api_key} if settings.api_key else {}),
            **headers,
        }
        if self.base_url is None:
            return httpx.AsyncClient(transport=await embedding.start_embedded(settings), headers=sent)
        # A proxy of the environment is for the outside world, not for this machine.
        local = httpx.URL(self.base_url).host in _LOCAL_HOSTS
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_IDLE_SOCKETS)
        return httpx.AsyncClient(headers=sent, limits=limits, follow_redirects=True, trust_env=not local)
