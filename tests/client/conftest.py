"""Clients of a service that is faked in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.fakes.fake_service import FakeService
from tinsmith import ServiceClient
from tinsmith.client.transport import embedding, retry
from tinsmith.settings import Settings


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeService], None]:
    """Put a fake in the place of the embedded service."""

    def put(service: FakeService) -> None:
        async def start(settings: Settings) -> FakeService:
            return service

        monkeypatch.setattr(embedding, "_start", start)

    return put


@pytest.fixture
def service(fake: FakeService, embed: Callable[[FakeService], None]) -> Iterator[ServiceClient]:
    """A ServiceClient of `fake`."""
    embed(fake)
    client = ServiceClient()
    yield client
    client.close("interrupted")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(retry, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(retry, "_LONGEST_DELAY_S", 0.01)
