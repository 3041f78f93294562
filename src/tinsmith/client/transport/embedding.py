"""Where the embedded service comes from: `tinsmith.embedded` registers it here, so the client never imports it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tinsmith.installing import install_command
from tinsmith.logs import hush_missing_widgets, starting
from tinsmith.types.errors import TinsmithError

if TYPE_CHECKING:
    import httpx

    from tinsmith.settings import Settings

StartEmbedded = Callable[["Settings"], Awaitable["httpx.AsyncBaseTransport"]]

# Any of these missing means that the bare SDK is installed.
_NEEDED = ("torch", "transformers", "fastapi", "sqlalchemy", "tinsmith.server")

_start: StartEmbedded | None = None


def register(start: StartEmbedded) -> None:
    """Say how the embedded service is started; it runs once per process and hands out its transport."""
    global _start
    _start = start


def check_available() -> None:
    """Check, without importing anything heavy, that a service can run inside this process.

    Raises:
        TinsmithError: the packages of the service are not installed.
    """
    # Looked up, not imported: torch takes seconds, and a client is made long before its first request.
    missing = [] if _start else [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise _missing(", ".join(missing))


def _missing(names: str) -> TinsmithError:
    return TinsmithError(
        "no service was named and none can run in this process: set TINSMITH_BASE_URL, or install it: "
        f"{install_command('server')} (not found: {names})"
    )


async def start_embedded(settings: Settings) -> httpx.AsyncBaseTransport:
    """Start the embedded service, or find it running, and return a transport to it.

    Raises:
        TinsmithError: the packages of the service are not installed.
    """
    import asyncio

    if _start is None:
        check_available()
        starting.info("starting a service in this process: loading torch and transformers takes some seconds")
        hush_missing_widgets()
        try:
            # On a thread, because importing torch would stop every other request of the loop for seconds.
            await asyncio.to_thread(import_module, "tinsmith.embedded")
        except ModuleNotFoundError as error:
            raise _missing(str(error.name)) from error
    if _start is None:
        raise TinsmithError("tinsmith.embedded registered no service")
    return await _start(settings)
