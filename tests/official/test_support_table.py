"""Every public method of the official clients is called; docs/official-sdk.md says what came of it.

`python -m tests.official.test_support_table` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker

from tests.docs.snippets import blocks_of, paste
from tests.official.support import CLIENTS, OPTIONS, PROBES, Probe, World, asynchronous, methods, plain, render
from tests.support.live_server import LiveServer

PAGE = Path(__file__).parents[2] / "docs" / "official-sdk.md"


@pytest.fixture(scope="module")
def world(live_server: LiveServer) -> Iterator[World]:
    """Clients of a session of their own."""
    world = World(live_server)
    yield world
    world.service.close("success").result(timeout=60)


def check(probe: Probe, call: object, world: World) -> None:
    """Make a call that must succeed, or fail with a message that says why."""
    if probe.refused is None:
        probe.run(call, world)  # pyright: ignore[reportArgumentType]
        return
    with pytest.raises((tinker.TinkerError, ValueError, RuntimeError)) as caught:
        probe.run(call, world)  # pyright: ignore[reportArgumentType]
    assert probe.refused in str(caught.value)


@pytest.mark.row(201)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_public_method_does_what_the_page_says(client: str, world: World) -> None:
    found = methods(client)
    assert set(PROBES[client]) == set(found), "a method without a probe, or the other way round"
    for name, twin in found.items():
        check(PROBES[client][name], plain(getattr(world.client(client), name)), world)
        if twin is not None:
            check(PROBES[client][name], asynchronous(getattr(world.client(client), twin)), world)


@pytest.mark.row(201, 203, 205)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_does_what_the_page_says(name: str, world: World) -> None:
    check(OPTIONS[name], None, world)


@pytest.mark.row(201)
def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run: python -m tests.official.test_support_table"


@pytest.mark.row(201)
def test_the_script_of_the_page_runs(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", live_server.url)
    monkeypatch.setenv("TINKER_API_KEY", live_server.key)
    names = paste(blocks_of(PAGE), monkeypatch)
    assert names["model"] in live_server.models


if __name__ == "__main__":
    PAGE.write_text(render())
