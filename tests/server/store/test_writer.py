"""The thread that writes, with jobs that can wait behind those that cannot, and the one that moves SQLite's log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from tests.server.conftest import soon
from tinsmith.server.store.db import Database, checkpointer, writer
from tinsmith.server.store.db.database import default_url

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> Any:
    db = Database(default_url(tmp_path))
    with db.writer.engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, said TEXT)"))
    yield db
    db.close()


def note(order: list[str], name: str, fails: bool = False) -> Callable[[Connection], None]:
    def job(connection: Connection) -> None:
        order.append(name)
        connection.execute(text("INSERT INTO notes (said) VALUES (:said)"), {"said": name})
        if fails:
            raise ValueError(name)

    return job


def said(database: Database) -> list[str]:
    return database.read(lambda connection: list(connection.execute(text("SELECT said FROM notes")).scalars()))


async def held_up(database: Database) -> Callable[[], Any]:
    """Keep the writer busy until what this returns is called."""
    going_on, begun = threading.Event(), threading.Event()

    def job(_: Connection) -> None:
        begun.set()
        assert going_on.wait(10)

    database.writer.submit(job)
    assert await asyncio.to_thread(begun.wait, 10)
    return going_on.set


async def test_what_can_wait_stands_behind_what_cannot(database: Database) -> None:
    order: list[str] = []
    go_on = await held_up(database)
    waiting = [database.tidy(note(order, f"tidy {i}")) for i in range(3)]
    tidied = asyncio.gather(*waiting)
    await asyncio.sleep(0)
    written = asyncio.gather(*(database.write(note(order, f"write {i}")) for i in range(3)))
    await asyncio.sleep(0)
    go_on()
    await written
    await tidied
    assert order == [*(f"write {i}" for i in range(3)), *(f"tidy {i}" for i in range(3))]
    assert sorted(said(database)) == sorted(order)


async def test_what_can_wait_gets_its_turn_beside_an_endless_stream(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PATIENCE_S", 0.0)
    order: list[str] = []
    tidied = asyncio.gather(*(database.tidy(note(order, "tidy")) for _ in range(5)))
    streaming = True

    async def stream() -> None:
        while streaming:
            # Two at once, so that one waits whenever the other is done.
            await database.write(note(order, "write"))

    streams = [asyncio.create_task(stream()) for _ in range(2)]
    await asyncio.wait_for(tidied, 10)
    streaming = False
    await asyncio.gather(*streams)
    assert order.count("tidy") == 5


async def test_one_that_can_wait_and_fails_takes_nothing_with_it(database: Database) -> None:
    order: list[str] = []
    go_on = await held_up(database)
    jobs = [database.tidy(note(order, "bad", fails=True)), database.tidy(note(order, "good"))]
    tidied = asyncio.gather(*jobs, return_exceptions=True)
    await asyncio.sleep(0)
    go_on()
    bad, good = await tidied
    assert isinstance(bad, ValueError)
    assert good is None
    assert said(database) == ["good"]


async def test_the_end_waits_for_both_kinds(tmp_path: Path) -> None:
    database = Database(default_url(tmp_path))
    with database.writer.engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, said TEXT)"))
    order: list[str] = []
    tidied = asyncio.gather(*(database.tidy(note(order, "tidy")) for _ in range(3)))
    written = asyncio.gather(*(database.write(note(order, "write")) for _ in range(3)))
    await asyncio.sleep(0)
    database.close()
    await written
    await tidied
    database = Database(default_url(tmp_path))
    assert sorted(said(database)) == ["tidy"] * 3 + ["write"] * 3
    database.close()


async def test_the_pool_is_asked_for_a_connection_once_and_again_after_a_fault(database: Database) -> None:
    taken: list[object] = []
    event.listen(database.writer.engine, "checkout", lambda *about: taken.append(about))
    for i in range(5):
        await database.write(note([], f"sound {i}"))
    assert len(taken) == 1
    with pytest.raises(ValueError, match="faulty"):
        await database.write(note([], "faulty", fails=True))
    await database.write(note([], "sound again"))
    assert len(taken) == 2
    assert said(database) == [*(f"sound {i}" for i in range(5)), "sound again"]


async def test_the_log_is_moved_and_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "_EVERY_S", 0.01)
    database = Database(default_url(tmp_path))
    log = Path(f"{tmp_path / 'tinsmith.db'}-wal")
    await database.write(lambda c: c.execute(text("CREATE TABLE blobs (id INTEGER PRIMARY KEY, body BLOB)")))
    row = {"body": b"x" * 100_000}
    for number in range(1, 101):
        await database.write(lambda c: c.execute(text("INSERT INTO blobs (body) VALUES (:body)"), row))
        if number % 5 == 0:
            held = number * 100_000
            # However slow the machine is: only what was moved lets the log begin anew.
            await soon(lambda held=held: (tmp_path / "tinsmith.db").stat().st_size > held)
    # Of ten megabytes the log holds what came since it was last begun anew.
    assert log.stat().st_size < 8_000_000
    database.close()
    assert not log.exists()


async def test_a_long_log_is_begun_anew_whatever_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(default_url(tmp_path))
    await database.write(lambda c: c.execute(text("CREATE TABLE blobs (id INTEGER PRIMARY KEY, body BLOB)")))
    moves: list[str] = []
    mover = database._checkpointer
    assert mover is not None
    move = mover._checkpoint

    def noted(mode: str) -> int:
        moves.append(mode)
        return move(mode)

    monkeypatch.setattr(mover, "_checkpoint", noted)
    monkeypatch.setattr(checkpointer, "_LONG", 20)
    row = {"body": b"x" * 200_000}
    await database.write(lambda c: c.execute(text("INSERT INTO blobs (body) VALUES (:body)"), row))
    await asyncio.to_thread(mover._move)
    await database.write(lambda c: c.execute(text("INSERT INTO blobs (body) VALUES ('x')")))
    await asyncio.to_thread(mover._move)
    assert moves == ["PASSIVE", "RESTART", "PASSIVE"]
    database.close()
