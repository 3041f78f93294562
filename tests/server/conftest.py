"""A running service over an in-memory transport, with a fake engine behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.client import Client
from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings

Start = Callable[..., Awaitable["Running"]]


class Running:
    """A started service and clients of it."""

    def __init__(self, service: Service, link: FakeLink) -> None:
        self.service = service
        self.link = link
        self.app = create_app(service)

    def http(self, key: str | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        headers = {"X-API-Key": key} if key else {}
        return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)

    async def client(self, owner: str = "local") -> Client:
        """A client with a key of its own and a session."""
        client = Client(self.http(await self.service.keys.create(owner, "test")))
        await client.open()
        return client

    async def crash(self) -> None:
        """End the service as a killed process ends: nothing is said to anybody, nothing is finished."""
        service = self.service
        service.core.futures.release_polls()
        self.link.alive = False
        await service.outcomes._storing.stop()
        await service.sessions.stop_draining()
        await service.core.tasks.stop()
        service.core.db.close()
        service._claim.lock._lock.release()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a service; several on one data folder are started one after another."""
    running: list[Running] = []

    async def begin(link: FakeLink | None = None, wait: bool = True, **options: Any) -> Running:
        link = link or FakeLink()
        service_options = {name: options.pop(name) for name in ("owner", "journal") if name in options}
        usual = {"home": tmp_path / "data", "long_poll_s": 2.0, "recovery_interval_s": 1e9}
        models = BaseModels({info.name: tmp_path for info in link.infos})
        service = Service(Settings(**(usual | options)), link, models, **service_options)
        await service.start()
        if wait:
            await service.wait_ready()
        running.append(Running(service, link))
        return running[-1]

    yield begin
    for one in running:
        if one.service.core.db.writer._thread.is_alive():
            await one.service.stop()


@pytest.fixture
async def running(start: Start) -> Running:
    return await start()


@pytest.fixture
def two_models() -> FakeLink:
    return FakeLink([tiny_info("tiny"), tiny_info("other/tiny")])


async def soon(test: Callable[[], bool], seconds: float = 3.0) -> None:
    """Wait until something is true."""
    for _ in range(int(seconds / 0.01)):
        if test():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true")


async def up(running: Running) -> None:
    """Wait until a new host has taken over."""
    await soon(lambda: running.service.dispatcher.open)


async def engine_dies(running: Running) -> None:
    running.link.kill()
    running.link.revive()
    await up(running)


class Restarting:
    """A service that can be killed and started again on the same data folder, and a client that stays."""

    def __init__(self, start: Start, **options: object) -> None:
        self.start = start
        self.options = options
        self.running: Running
        self.key = ""

    async def begin(self) -> Client:
        self.running = await self.start(**self.options)
        self.key = await self.running.service.keys.create("local", "test")
        client = Client(self.running.http(self.key))
        await client.open()
        return client

    async def kill(self, client: Client, link: FakeLink | None = None) -> None:
        """Kill the service and start another; the client keeps what it knows."""
        await self.running.crash()
        self.running = await self.start(link, **self.options)
        client.http = self.running.http(self.key)
        await up(self.running)


@pytest.fixture
def restarting(start: Start) -> Restarting:
    return Restarting(start)
