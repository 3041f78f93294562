"""`serve` ends, and says why, once another service has taken its database."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.cli import serve
from tinsmith.server.http import connections
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.ownership import ownership
from tinsmith.server.store.ownership.marks import parse
from tinsmith.server.store.ownership.places import DatabasePlace
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError


def taken(home: Path) -> None:
    """Take a running service's database, as one on another machine that believes it dead."""
    db = Database(default_url(home))
    try:
        place = DatabasePlace(db)
        swapped = False
        while not swapped:  # it may be refreshed in between
            found = place.read() or ""
            mark = parse(found)
            assert mark is not None
            swapped = place.swap(found, replace(mark, id="theirs", host="elsewhere").text())
    finally:
        db.close()


def test_serve_ends_once_its_database_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.1)
    monkeypatch.setattr("tinsmith.cluster.child.ChildLink", lambda *_: FakeLink([tiny_info("tinsmith-tiny")]))
    # What a command does to its whole process.
    monkeypatch.setattr(serve.logs, "configure", lambda _: None)
    monkeypatch.setattr(connections, "raise_descriptors", lambda: None)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)
    settings = Settings(home=tmp_path / "data", port=0)

    async def both() -> None:
        running = asyncio.create_task(serve._serve(settings, ["tinsmith-tiny"]))
        while "Tinsmith listens on" not in capsys.readouterr().out:
            assert not running.done(), running
            await asyncio.sleep(0.05)
        taken(tmp_path / "data")
        await asyncio.wait_for(running, 20)

    with pytest.raises(StartupError, match=r"^database.*: taken over by pid \d+ on elsewhere since"):
        asyncio.run(both())
