"""What the service writes by itself while the disk is full: it waits for room, and nothing else waits for it."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from tests.server.conftest import Running, Start, engine_dies, soon
from tests.server.disk import Disk
from tinsmith.server.store.db import database
from tinsmith.server.store.db.tables import BaseModelRow, SamplerRow

pytestmark = [pytest.mark.anyio, pytest.mark.row(210)]


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_RETRY_S", (0.01,))


def rows(running: Running, column: object) -> list[object]:
    return running.service.core.db.read(lambda connection: list(connection.execute(select(column)).scalars()))  # pyright: ignore


async def test_an_engine_that_comes_up_meanwhile_is_used(start: Start) -> None:
    running = await start()
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    disk = Disk(running)
    disk.full = True
    await engine_dies(running)
    disk.full = False
    assert (await client.sample(sampler)).sequences
    await engine_dies(running)
    assert rows(running, BaseModelRow.name) == ["tiny"]


async def test_a_sampler_that_was_closed_meanwhile_leaves_its_row_later(start: Start) -> None:
    running = await start()
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    folder = running.service.core.data_folder.absolute(running.service.core.data_folder.sampler(sampler))
    await soon(folder.exists)
    disk = Disk(running)
    disk.full = True
    await client.close_sampler(sampler)
    await soon(lambda: sampler not in running.service.core.live.samplers)
    assert rows(running, SamplerRow.id) == [sampler]
    disk.full = False
    await soon(lambda: rows(running, SamplerRow.id) == [])
    await soon(lambda: not folder.exists())


async def test_a_snapshot_counts_as_written_once_its_row_says_so(start: Start) -> None:
    running = await start()
    client = await running.client()
    model = await client.create_model()
    running.link.flushing = False
    sampler = await client.snapshot(model)
    disk = Disk(running)
    disk.full = True
    running.link.flush()
    await disk.reached()
    # By this the journal is cut, and with it what would make the sampler again.
    assert not running.service.core.live.samplers[sampler].on_disk
    disk.full = False
    await soon(lambda: running.service.core.live.samplers[sampler].on_disk)
    assert rows(running, SamplerRow.on_disk) == [True]
