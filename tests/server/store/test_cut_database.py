"""A database that was cut, flipped or is somebody else's: what was committed before is there, or one line says why."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.server.client import Client
from tests.server.conftest import Restarting, Start, up
from tinsmith.types.errors import StartupError

pytestmark = [pytest.mark.anyio, pytest.mark.row(211)]

DATABASE, WAL, SHM = "tinsmith.db", "tinsmith.db-wal", "tinsmith.db-shm"


class Image:
    """A data folder as it lay on the disk when its service was killed, with what had been acknowledged."""

    def __init__(self, folder: Path, key: str, wanted: list[tuple[dict[str, Any], dict[str, float]]]) -> None:
        self.folder = folder
        self.key = key
        self.wanted = wanted

    def copy(self, target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(self.folder, target)


@pytest.fixture
async def image(restarting: Restarting, tmp_path: Path) -> Image:
    client = await restarting.begin()
    model = await client.create_model()
    wanted: list[tuple[dict[str, Any], dict[str, float]]] = []
    for number in range(12):
        await client.forward_backward(model, number)
        promise = await client.post_step(model)
        wanted.append((promise, (await client.result(promise))["metrics"]))
    # While it runs: SQLite folds its journal into the database when the last connection closes.
    root = restarting.running.service.core.data_folder.root
    shutil.copytree(root, tmp_path / "image", ignore=shutil.ignore_patterns("*.lock"))
    await restarting.running.crash()
    assert (tmp_path / "image" / WAL).stat().st_size > 50_000
    return Image(tmp_path / "image", restarting.key, wanted)


async def started(start: Start, image: Image, home: Path) -> int | None:
    """Start on a damaged copy; return how many steps it knows, or None where it refuses with one line."""
    try:
        running = await start(home=home)
    except StartupError as error:
        assert re.fullmatch(
            rf"database {home}/tinsmith\.db: damaged \(.+\): restore it from a backup, or .*", str(error)
        )
        return None
    client = Client(running.http(image.key))
    known = 0
    for number, (promise, metrics) in enumerate(image.wanted):
        answer = await client.poll(promise["request_id"])
        if answer.status_code == 200:
            assert answer.json()["metrics"] == metrics
            # What was committed later is never there without what was committed before it.
            assert known == number
            known += 1
    await running.crash()
    return known


async def test_a_journal_cut_anywhere_gives_what_was_committed_before(
    start: Start, image: Image, tmp_path: Path
) -> None:
    size = (image.folder / WAL).stat().st_size
    draw = random.Random(7)
    found = []
    for cut in sorted([0, 32, *(draw.randrange(size) for _ in range(10)), size]):
        home = image.copy(tmp_path / "cut")
        os.truncate(home / WAL, cut)
        found.append(await started(start, image, home))
    assert found == sorted(found), found
    assert found[-1] == len(image.wanted)


async def test_a_journal_with_a_flipped_byte_gives_what_was_committed_before(
    start: Start, image: Image, tmp_path: Path
) -> None:
    size = (image.folder / WAL).stat().st_size
    draw = random.Random(7)
    for _ in range(6):
        home = image.copy(tmp_path / "flipped")
        content = bytearray((home / WAL).read_bytes())
        content[draw.randrange(size)] ^= 1 << draw.randrange(8)
        (home / WAL).write_bytes(content)
        assert await started(start, image, home) is not None


@pytest.mark.parametrize("what", ["wal removed", "shm removed", "shm garbage"])
async def test_a_journal_that_lost_a_file_is_started_on(start: Start, image: Image, tmp_path: Path, what: str) -> None:
    home = image.copy(tmp_path / "home")
    if what == "shm garbage":
        (home / SHM).write_bytes(os.urandom(32768))
    else:
        (home / (WAL if what == "wal removed" else SHM)).unlink()
    known = await started(start, image, home)
    # Without its journal, the database is as old as it was before it.
    assert known == (0 if what == "wal removed" else len(image.wanted))


def whole(folder: Path) -> Path:
    """Fold the journal into the database."""
    connection = sqlite3.connect(folder / DATABASE)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder / DATABASE


async def test_a_database_file_with_lost_pages_is_refused_or_whole(start: Start, image: Image, tmp_path: Path) -> None:
    draw = random.Random(7)
    refused = 0
    for case in range(8):
        home = image.copy(tmp_path / "pages")
        file = whole(home)
        size = file.stat().st_size
        if case % 2:
            os.truncate(file, draw.randrange(100, size))
        else:
            with file.open("r+b") as opened:
                opened.seek(4096 * draw.randrange(size // 4096))
                opened.write(bytes(4096))
        known = await started(start, image, home)
        assert known in (None, len(image.wanted))  # a page that was free may be lost
        refused += known is None
    assert refused >= 6


async def test_a_file_that_is_no_database_is_refused(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / DATABASE).write_bytes(b"not a database at all" * 500)
    with pytest.raises(StartupError, match=r"tinsmith\.db: damaged \(file is not a database\): restore it"):
        await start(home=home)


async def test_the_database_of_another_program_is_left_alone(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with sqlite3.connect(home / DATABASE) as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER)")
    connection.close()
    with pytest.raises(StartupError, match=r"got tables of another program \(recipes\), expected an empty one or"):
        await start(home=home)
    with sqlite3.connect(home / DATABASE) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("recipes",)]


@pytest.mark.parametrize("version", ["9999", "abc", "", None])
async def test_a_schema_of_a_newer_version_is_refused_with_both_versions(
    restarting: Restarting, version: str | None
) -> None:
    await restarting.begin()
    root = restarting.running.service.core.data_folder.root
    await restarting.running.crash()
    with sqlite3.connect(root / DATABASE) as connection:
        if version is None:
            connection.execute("DELETE FROM alembic_version")
        else:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()
    expected = r"got schema 9999, expected at most \d{4}; update Tinsmith" if version == "9999" else r"expected one of"
    with pytest.raises(StartupError, match=expected):
        await restarting.start()


@pytest.mark.parametrize("content", ["{torn", "[]", "", '{"id": 7}', "\ufffd"])
@pytest.mark.parametrize("name", ["serve.json", "belongs.json"])
async def test_notes_of_the_folder_that_are_damaged_stop_nobody(
    restarting: Restarting, name: str, content: str
) -> None:
    client = await restarting.begin()
    root = restarting.running.service.core.data_folder.root
    (root / name).write_text(content)
    if name == "serve.json":
        with pytest.raises(StartupError, match="held by another process"):
            await restarting.start()
    await restarting.kill(client)
    await up(restarting.running)
    assert await client.create_model()
