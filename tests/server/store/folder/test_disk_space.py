"""A disk that fills up shows in health and metrics; what lies in the data folder is its owner's alone."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from tests.server.conftest import Start

pytestmark = pytest.mark.anyio


async def test_a_disk_that_is_nearly_full_shows_in_health_and_metrics_and_is_said_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start(disk_low_mb=2**40)
    client = await running.client()
    await client.save_state(await client.create_model(), "a")
    health = await client.http.get("/healthz")
    assert health.status_code == 200
    assert health.json()["status"] == "degraded"
    assert "MiB free, expected at least 1099511627776 (TINSMITH_DISK_LOW_MB)" in health.json()["detail"]
    with caplog.at_level(logging.WARNING, "tinsmith.server"):
        for _ in range(2):
            await running.service.sweeper.sweep()
    assert len([line for line in caplog.messages if line.startswith("disk: ")]) == 1
    page = (await client.http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("tinsmith_"))
    assert float(values["tinsmith_disk_free_bytes"]) > 0
    for kind in ("database", "checkpoints"):
        assert float(values[f'tinsmith_stored_bytes{{kind="{kind}"}}']) > 0


async def test_a_disk_with_room_is_no_news(start: Start) -> None:
    running = await start(disk_low_mb=0)
    assert (await running.http().get("/healthz")).json() == {"status": "ok"}


def modes(root: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.iterdir()]}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_the_data_folder_is_its_owners_alone(start: Start, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        client = await (await start()).client()
        await client.save_state(await client.create_model(), "a")
    finally:
        os.umask(before)
    found = modes(tmp_path / "data")
    for name in ("data", "blobs", "checkpoints", "samplers", "recovery"):
        assert found[name] == 0o700, name
    for name in ("tinsmith.db", "tinsmith.db-wal", "tinsmith.db-shm"):
        assert found[name] == 0o600, name


async def test_a_folder_that_others_may_enter_is_named_and_what_was_written_is_closed(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    await (await start()).crash()
    for path in (root, root / "blobs"):
        path.chmod(0o755)
    for name in ("tinsmith.db", "serve.json"):
        (root / name).chmod(0o644)
    (root / "mine.txt").touch(mode=0o644)
    with caplog.at_level(logging.WARNING, "tinsmith.server"):
        await start()
    assert [line for line in caplog.messages if line.startswith(f"data folder {root}: others may enter it")]
    found = modes(root)
    assert (found["data"], found["mine.txt"]) == (0o755, 0o644)
    assert (found["blobs"], found["tinsmith.db"], found["serve.json"]) == (0o700, 0o600, 0o600)
