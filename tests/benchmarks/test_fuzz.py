"""Random requests to all routes: none of them is answered with 5xx, and no future fails by the service's fault."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from benchmarks.fuzz import fuzzer
from benchmarks.fuzz.mutations import json_body
from benchmarks.fuzz.world import exchange, new_world

pytestmark = pytest.mark.row(213)


def test_no_request_is_the_services_fault(tmp_path: Path) -> None:
    report = asyncio.run(fuzzer.fuzz(tmp_path, 1000, seed=2))
    assert report.faults == 0, "\n".join(report.examples)
    sent = sum(one.inputs for one in report.routes.values())
    assert sent == 1000
    # Enough of them get past the first check to reach what lies behind.
    assert sum(one.statuses[200] + one.statuses[204] for one in report.routes.values()) > sent / 5
    assert len(report.routes) > 45


@pytest.mark.slow
def test_a_hundred_thousand(tmp_path: Path) -> None:
    report = asyncio.run(fuzzer.fuzz(tmp_path, 100_000, seed=0))
    assert report.faults == 0, "\n".join(report.examples)


def test_a_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver itself: a route that breaks is counted, with the request that broke it."""

    async def run() -> fuzzer.Report:
        async with new_world(tmp_path) as world:
            monkeypatch.setattr(world.service, "metrics_page", lambda: 1 / 0)
            sender = fuzzer.Fuzzer(world, 0)
            sender._routes = [("GET", "/metrics")]
            return await sender.run(10)

    report = asyncio.run(run())
    assert report.faults > 5
    assert "GET /metrics" in report.examples[0]


def test_the_seed_fixes_the_bodies() -> None:
    valid = {"a": 1, "b": {"c": [1, 2]}}
    first, second = ([json_body(rng, valid) for _ in range(50)] for rng in (random.Random(5), random.Random(5)))
    assert first == second
    assert len(set(first)) > 30


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1", "1e3"])
def test_a_length_that_is_no_number_breaks_nothing(tmp_path: Path, length: str) -> None:
    async def run() -> tuple[int, bytes]:
        async with new_world(tmp_path) as world:
            headers = [(b"x-api-key", world.key.encode()), (b"content-length", length.encode("latin-1"))]
            return await exchange(world.app, "POST", "/api/v1/telemetry", b"", headers, b"{}")

    status, answer = asyncio.run(run())
    assert status == (413 if length.isascii() and length.isdigit() else 200), answer
