"""Which answers make a line in the log."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tinsmith.server.http.app import create_app
from tinsmith.server.state.prometheus import Metrics


def _levels(caplog: pytest.LogCaptureFixture, paths: list[str]) -> list[tuple[int, int]]:
    catalog = SimpleNamespace(healthy=False, folders={"m": "folder"}, loaded=set[str](), lost=None)
    service: Any = SimpleNamespace(core=SimpleNamespace(catalog=catalog, metrics=Metrics()), owner="ann")

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [(await client.get(path)).status_code for path in paths]

    with caplog.at_level(logging.DEBUG, logger="tinsmith.access"):
        statuses = asyncio.run(ask())
    levels = [record.levelno for record in caplog.records if record.name == "tinsmith.access"]
    return list(zip(statuses, levels, strict=True))


def test_polls_while_the_models_load_are_no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    assert _levels(caplog, ["/healthz", "/api/v1/healthz"]) == [(503, logging.DEBUG)] * 2


def test_a_fault_of_the_service_is_one(caplog: pytest.LogCaptureFixture) -> None:
    # A service that is made of nothing but health has no list of sessions.
    assert _levels(caplog, ["/api/v1/sessions"]) == [(500, logging.WARNING)]
