"""The service inside this process: the same objects as a served one, its app on the SDK's own event loop.

`tinsmith.client` finds it here when no URL is given; it is the one place that imports both client and server.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import httpx
from fastapi import FastAPI

# The session module comes first: at the end of the process sessions are ended before the service is.
from tinsmith.client.transport import embedding, session
from tinsmith.client.transport.loop import at_shutdown, background
from tinsmith.cluster.in_process import InProcessLink
from tinsmith.cluster.model_sources import ModelSpec, resolve
from tinsmith.logs import starting
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings
from tinsmith.types.environment import read_settings
from tinsmith.types.errors import StartupError, TinsmithError
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

# Imported for its place in the order of endings alone, and used here so that nobody tidies the import away.
assert session

# Whose requests those of this process are; its checkpoints stay with the next process of the same home.
OWNER = "local"
_STOP_TIMEOUT_S = 30.0


class EmbeddedService:
    """One service of this process: the shipped model at once, any other when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        folder = resolve(EMBEDDED_MODEL)
        # Only the shipped model, which loads in a moment: what else a script wants, it names when it makes a client.
        self._link = InProcessLink([ModelSpec(EMBEDDED_MODEL, str(folder))], settings)
        self.service = Service(
            settings,
            self._link,
            BaseModels({EMBEDDED_MODEL: folder}, self._load),
            owner=OWNER,
            journal=False,
        )
        self.transport = ShieldedTransport(create_app(self.service))

    async def _load(self, name: str) -> tuple[BaseModelInfo, Path]:
        """Load a model by a name that the settings give it now, a folder's path or a hub id."""
        folder = await asyncio.to_thread(resolve, read_settings().models.get(name, name))
        starting.info("loading the model %s", name if str(folder) == name else f"{name} from {folder}")
        began = time.monotonic()
        info = await self._link.ensure_model(name, str(folder))
        starting.info("loaded in %.1f s", time.monotonic() - began)
        await self.service.left_behind.recover(info)
        return info, folder

    async def recover(self) -> None:
        """Wait for the engine, and save what scripts that were killed had trained of the shipped model."""
        await self.service.wait_ready()
        await self.service.left_behind.recover(await self.service.core.catalog.find(EMBEDDED_MODEL))

    async def stop(self) -> None:
        """Stop the service; clients that still wait for an answer are told."""
        try:
            await self.service.stop()
        finally:
            await self.transport.stop()


class ShieldedTransport(httpx.ASGITransport):
    """Requests to the app of this process; one that a client gives up is carried out all the same.

    Over a network the service does not notice that a client has gone; here a cancelled task would tear its handler.
    """

    def __init__(self, app: FastAPI) -> None:
        # `raise_app_exceptions` off: a fault of the app is a 500 to the client, as it would be over a network.
        super().__init__(app, raise_app_exceptions=False)
        self._under_way: set[asyncio.Future[httpx.Response]] = set()
        self._stopped = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Hand a request to the app and return what it answers; 410 once the service was stopped."""
        if self._stopped:
            return _gone()
        answering = asyncio.ensure_future(super().handle_async_request(request))
        self._under_way.add(answering)
        answering.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            if self._stopped and answering.cancelled():
                return _gone()
            raise

    async def stop(self) -> None:
        """Answer what is under way, and whatever comes: the service is stopped, and nothing of it will answer."""
        self._stopped = True
        left = list(self._under_way)
        for answering in left:
            answering.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _gone() -> httpx.Response:
    # A status that no client repeats: the next service of this process knows none of its sessions.
    detail = "the embedded service of this process was stopped; make a new ServiceClient, which starts another"
    return httpx.Response(410, json={"detail": detail})


_running: EmbeddedService | None = None
_lock = asyncio.Lock()


async def start(settings: Settings) -> httpx.AsyncBaseTransport:
    """Start the service of this process, or find it running; the settings of the first start hold.

    Raises:
        TinsmithError: it cannot start; the message says why.
    """
    global _running, _lock
    if _running is not None and _running.pid != os.getpid():
        # A forked child: the engine's thread stayed with the parent.
        _running, _lock = None, asyncio.Lock()
    async with _lock:
        if _running is None:
            _running = await _started(settings)
        return _running.transport


async def _started(settings: Settings) -> EmbeddedService:
    try:
        embedded = EmbeddedService(settings)
        await embedded.service.start()
        try:
            await embedded.recover()
        # Interrupted or failed on the way: the engine's thread is running already and would keep the data folder.
        except BaseException:
            await embedded.service.stop()
            raise
    except StartupError as error:
        raise TinsmithError(f"the embedded service cannot start: {error}") from error
    return embedded


async def stop() -> None:
    """Stop the service of this process, if it runs; the next client starts another."""
    global _running
    async with _lock:
        running, _running = _running, None
        # In a forked child there is nothing to stop: the parent's engine is the parent's.
        if running is not None and running.pid == os.getpid():
            await running.stop()


embedding.register(start)
at_shutdown(lambda: background().submit(stop()).result(_STOP_TIMEOUT_S))
