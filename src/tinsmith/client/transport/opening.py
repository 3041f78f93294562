"""From arguments and environment to a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.client.transport.connection import Connection
from tinsmith.types.environment import read_settings


def open_connection(
    base_url: str | None = None, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> Connection:
    """Make the connection that the arguments, or else the environment as it is now, name; sends nothing yet.

    Args:
        base_url: the service; None takes `TINSMITH_BASE_URL` or `TINKER_BASE_URL`, else the embedded service.
        api_key: None takes `TINSMITH_API_KEY` or `TINKER_API_KEY`.
        headers: further headers of every request.

    Raises:
        UserError: a setting of the environment cannot be used.
    """
    given: dict[str, Any] = {"api_key": api_key} if api_key is not None else {}
    settings = read_settings(**given)
    # An empty TINSMITH_BASE_URL is an unset one, as shells have it.
    return Connection(base_url if base_url is not None else settings.base_url or None, settings, headers)
