"""A start on a database and a folder that do not belong together says so and deletes no complete checkpoint."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.server.client import Client
from tests.server.conftest import Restarting, up

pytestmark = [pytest.mark.anyio, pytest.mark.row(211)]

DATABASE = ("tinsmith.db", "tinsmith.db-wal", "tinsmith.db-shm")


def take(source: Path, target: Path) -> None:
    """Put the database of one folder into another, in place of what is there."""
    target.mkdir(exist_ok=True)
    for name in DATABASE:
        (target / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copy2(source / name, target / name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name == "tinsmith.server"]
    assert not [line for line in found if "\n" in line]
    return found


async def again(restarting: Restarting, client: Client) -> None:
    restarting.running = await restarting.start(**restarting.options)
    client.http = restarting.running.http(restarting.key)
    await up(restarting.running)


async def test_an_ordinary_start_says_nothing(restarting: Restarting, caplog: pytest.LogCaptureFixture) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.save_state(model, "good")
    for _ in range(3):
        await restarting.kill(client)
    assert warnings(caplog) == []


async def test_a_database_from_a_backup_costs_no_checkpoint(
    restarting: Restarting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.save_state(model, "first")
    root = restarting.running.service.core.data_folder.root
    await restarting.running.crash()
    take(root, tmp_path / "backup")
    await again(restarting, client)
    await client.save_state(model, "second")
    saved = root / "checkpoints" / model / "weights" / "second"
    content = (saved / "state.json").read_bytes()
    (root / "blobs" / "0123.result").write_bytes(b"of an operation that only the newer database knows")
    await restarting.running.crash()
    take(tmp_path / "backup", root)
    await again(restarting, client)
    older, moved = warnings(caplog)
    assert "the database is older than the folder (it knows of 1 of 2 starts)" in older
    aside = f"set-aside/checkpoints/{model}/weights/second"
    assert (
        moved
        == f"checkpoint checkpoints/{model}/weights/second is complete, but no row names it: it was moved to {aside}"
    )
    assert (root / aside / "state.json").read_bytes() == content
    assert (root / "blobs" / "0123.result").exists()
    assert (root / "checkpoints" / model / "weights" / "first").is_dir()
    # Told once: from now on both count alike.
    caplog.clear()
    await restarting.kill(client)
    assert warnings(caplog) == []


async def test_a_new_database_beside_old_folders_is_said(
    restarting: Restarting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.save_state(model, "good")
    root = restarting.running.service.core.data_folder.root
    await restarting.running.crash()
    take(tmp_path / "nothing", root)
    restarting.running = await restarting.start()
    [line] = warnings(caplog)
    assert "the database is new, but the folder is not: was its database moved or deleted? its 1 checkpoints" in line
    assert (root / "checkpoints" / model / "weights" / "good" / "state.json").is_file()


async def test_the_database_of_another_folder_is_said(
    restarting: Restarting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = await restarting.start(home=tmp_path / "other")
    client = await other.client()
    model = await client.create_model()
    await client.save_state(model, "elsewhere")
    await other.crash()
    client = await restarting.begin()
    await client.create_model()
    root = restarting.running.service.core.data_folder.root
    await restarting.running.crash()
    take(tmp_path / "other", root)
    restarting.running = await restarting.start()
    foreign, missing = warnings(caplog)[:2]
    assert "the database is that of another data folder" in foreign
    where = f"checkpoints/{model}/weights/elsewhere"
    assert f"1 of 1 checkpoints in the database have no folder, {where} among them" in missing


async def test_a_stamp_that_cannot_be_read_is_written_anew(
    restarting: Restarting, caplog: pytest.LogCaptureFixture
) -> None:
    client = await restarting.begin()
    stamp = restarting.running.service.core.data_folder.root / "belongs.json"
    stamp.write_text("{torn")
    await restarting.kill(client)
    [line] = warnings(caplog)
    assert f"{stamp} cannot be read" in line
    caplog.clear()
    await restarting.kill(client)
    assert warnings(caplog) == []
