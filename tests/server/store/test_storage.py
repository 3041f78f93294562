"""Database, writer, blobs, locks."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from collections.abc import Coroutine
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from tests.server.client import Client, datum
from tests.server.conftest import Start
from tests.support.fakes.fake_link import FakeLink
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.db.database import SCHEMA_VERSION, Database, default_url
from tinsmith.server.store.db.tables import Base
from tinsmith.server.store.db.writer import RowWrite
from tinsmith.server.store.folder.data_folder import DataFolder
from tinsmith.server.store.folder.folder_lock import FolderLock, claim, dead_instances, new_instance
from tinsmith.server.store.journal.blobs import OWNER, BlobStore
from tinsmith.server.store.keys import KeyStore
from tinsmith.server.store.migrations import config, upgrade
from tinsmith.settings import Settings
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import Damaged, StartupError

pytestmark = pytest.mark.anyio


def test_migrations_from_nothing_give_the_schema_of_the_models() -> None:
    with create_engine("sqlite://").connect() as connection:
        upgrade(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert ScriptDirectory.from_config(config(connection)).get_current_head() == SCHEMA_VERSION
        assert context.get_current_revision() == SCHEMA_VERSION


def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    """Older services then refuse it by its revision: they would misread rows of the journal that carry a version."""
    db = Database(default_url(tmp_path))
    with db.writer.engine.connect() as connection:
        command.upgrade(config(connection), "0001")
        assert "recordings" not in inspect(connection).get_table_names()
    db.migrate(tmp_path / "lock")
    found = db.read(lambda c: c.execute(text("SELECT version_num FROM alembic_version")).scalar())
    db.close()
    assert found == SCHEMA_VERSION > "0001"


async def test_keys_from_before_there_were_weights_weigh_one(tmp_path: Path) -> None:
    db = Database(default_url(tmp_path))
    with db.writer.engine.connect() as connection:
        command.upgrade(config(connection), "0004")
        fields = "key_hash, owner, name, shown, created_at"
        connection.execute(text(f"INSERT INTO api_keys ({fields}) VALUES ('h', 'ann', 'old', 'wxyz', 1.0)"))
        connection.commit()
    db.migrate(tmp_path / "lock")
    keys = KeyStore(db)
    assert [(key.owner, key.name, key.weight) for key in await keys.all()] == [("ann", "old", 1.0)]
    await keys.create("ann", "new", weight=2.5)
    assert [key.weight for key in await keys.all()] == [1.0, 2.5]
    db.close()


def test_migrating_twice_and_at_once_is_no_error(tmp_path: Path) -> None:
    databases = [Database(default_url(tmp_path)) for _ in range(3)]
    for db in databases:
        db.migrate(tmp_path / "lock")
    assert databases[0].read(lambda c: c.execute(text("SELECT count(*) FROM operations")).scalar()) == 0
    for db in databases:
        db.close()


@pytest.mark.parametrize(("durability", "level"), [("normal", 1), ("full", 2)])
def test_sqlite_is_set_up_for_the_wanted_durability(tmp_path: Path, durability: str, level: int) -> None:
    db = Database(default_url(tmp_path), durability)  # pyright: ignore
    assert db.read(lambda c: c.execute(text("PRAGMA journal_mode")).scalar()) == "wal"
    assert db.read(lambda c: c.execute(text("PRAGMA synchronous")).scalar()) == level
    db.close()


async def test_one_commit_serves_many_writes_and_a_failing_one_fails_alone(tmp_path: Path) -> None:
    db = Database(default_url(tmp_path))
    await db.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    numbers = [*range(300), 7, *range(300, 400)]
    jobs = [db.write(lambda c, n=n: c.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})) for n in numbers]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [IntegrityError]
    assert isinstance(outcomes[300], IntegrityError)
    assert db.read(lambda c: c.execute(text("SELECT count(*) FROM t")).scalar()) == 400
    db.close()


async def test_rows_of_one_statement_are_sent_together_and_a_failing_one_fails_alone(tmp_path: Path) -> None:
    db = Database(default_url(tmp_path))
    made = Table("t", MetaData(), Column("n", Integer, primary_key=True), Column("seen", Integer))
    await db.write(lambda c: made.create(c))
    add = insert(made)
    change = update(made).where(made.c.n == bindparam("of"))

    def rows(numbers: list[int]) -> list[Coroutine[Any, Any, None]]:
        return [db.write_row(RowWrite(add, lambda n=n: {"n": n, "seen": 0})) for n in numbers]

    sent: list[tuple[str, int]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if "t " in statement and rest[-1]:
            sent.append((statement.split()[0], len(parameters)))

    event.listen(db.writer.engine, "before_cursor_execute", note)
    # The writer waits in the first job, so that all the rest makes one group: changes between the rows they are of.
    begun, go = threading.Event(), threading.Event()
    held = asyncio.ensure_future(db.write(lambda c: (begun.set(), go.wait())))
    await asyncio.to_thread(begun.wait)
    work: list[Coroutine[Any, Any, None]] = []
    for n in range(20):
        work += rows([n])
        work.append(db.write_row(RowWrite(change, lambda n=n: {"of": n, "seen": n + 1})))
    waiting = asyncio.gather(*work)
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, waiting)
    assert sent == [("INSERT", 20), ("UPDATE", 20)]
    found = db.read(lambda c: list(c.execute(text("SELECT seen FROM t ORDER BY n")).scalars()))
    assert found == list(range(1, 21))

    outcomes = await asyncio.gather(*rows([30, 7, 31]), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert db.read(lambda c: c.execute(text("SELECT count(*) FROM t")).scalar()) == 22
    db.close()


async def test_what_the_loop_has_to_do_gets_its_turn_between_the_requests_that_one_commit_wakes(
    tmp_path: Path,
) -> None:
    db = Database(default_url(tmp_path))
    begun, go = threading.Event(), threading.Event()
    held = asyncio.ensure_future(db.write(lambda c: (begun.set(), go.wait())))
    await asyncio.to_thread(begun.wait)
    order: list[str] = []
    writes = [db.writer.submit(lambda c: None) for _ in range(100)]
    for write in writes:
        write.add_done_callback(lambda _: order.append("write"))

    async def beats() -> None:
        while order.count("write") < len(writes):
            order.append("beat")
            await asyncio.sleep(0)

    go.set()
    await asyncio.gather(held, beats(), *writes)
    woken = [len(list(some)) for what, some in groupby(order) if what == "write"]
    assert sum(woken) == 100
    assert max(woken) <= 8
    db.close()


async def test_what_is_queued_is_committed_before_closing(tmp_path: Path) -> None:
    db = Database(default_url(tmp_path))
    await db.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER)")))
    writes = [asyncio.ensure_future(db.write(lambda c: c.execute(text("INSERT INTO t VALUES (1)")))) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.to_thread(db.close)
    await asyncio.gather(*writes)
    again = Database(default_url(tmp_path))
    assert again.read(lambda c: c.execute(text("SELECT count(*) FROM t")).scalar()) == 50
    again.close()


@pytest.mark.parametrize("url", ["folder", "memory://blobs"])
async def test_blobs(tmp_path: Path, url: str) -> None:
    blobs = BlobStore(str(tmp_path / "blobs") if url == "folder" else url, sync=True)
    await blobs.put("a", b"one")
    await blobs.put("b", b"two")
    assert await blobs.get("a", None) == b"one"
    assert await blobs.get("a", await blobs.put("a", b"one", b"about"), b"about") == b"one"
    assert sorted(blobs.keys()) == ["a", "b"]
    path = blobs.local_path("a")
    assert (path is not None and Path(path).read_bytes() == b"one") == (url == "folder")
    await blobs.delete(["a", "a", "never there"])
    with pytest.raises(Damaged, match="journal file a is gone"):
        await blobs.get("a", None)
    await blobs.delete(["b"])


async def test_journal_bodies_in_another_store(start: Start, tmp_path: Path) -> None:
    running = await start(blob_url=str(tmp_path / "elsewhere"), durability="full")
    client = await running.client()
    model = await client.create_model()
    data = [datum(*range(60)) for _ in range(400)]
    await client.result(
        await client.post("forward_backward", encode_forward_backward_request(model, 1, data, "cross_entropy"))
    )
    blobs = [path for path in (tmp_path / "elsewhere").iterdir() if not path.name.startswith(OWNER)]
    assert sorted(path.suffix for path in blobs) == [".body", ".result"]


@pytest.mark.parametrize(
    ("url", "message"),
    [("sqlite:////nowhere/at/all.db", "unable to open"), ("nonsense", "database"), ("oracle9://x", "database")],
)
async def test_a_database_that_cannot_be_used(start: Start, url: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        await start(database_url=url)
    assert await start()  # the folder was given back


@pytest.mark.parametrize("version", ["9999", "abc", ""])
async def test_a_database_of_a_later_or_unknown_version(start: Start, tmp_path: Path, version: str) -> None:
    await (await start()).crash()
    db = Database(default_url(tmp_path / "data"))
    await db.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version}))
    db.close()
    with pytest.raises(StartupError, match=rf"database: got schema '?{version}'?, expected .*{SCHEMA_VERSION}"):
        await start()


# -- locks ---------------------------------------------------------------------------------------------------------


def _hold(path: str, ready: object, done: object) -> None:
    lock = FolderLock(Path(path))
    lock.acquire()
    ready.set()  # pyright: ignore
    done.wait()  # pyright: ignore


@pytest.mark.row(213)
def test_a_held_folder_names_its_holder_and_is_free_when_that_dies(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(str(tmp_path / "serve.lock"), ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        lock = FolderLock(tmp_path / "serve.lock")
        with pytest.raises(StartupError, match=f"held by pid {holder.pid}, started 20.*, command: "):
            lock.acquire()
    finally:
        holder.kill()
        holder.join()
    lock.acquire()
    assert str(os.getpid()) in lock.holder()
    lock.release()


def test_a_holder_that_left_no_note(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "a.lock"), FolderLock(tmp_path / "a.lock")
    first.acquire()
    (tmp_path / "a.json").write_text("torn")
    with pytest.raises(StartupError, match="left no note"):
        second.acquire()
    first.release()


def test_instances_are_alive_while_their_lock_is_held(tmp_path: Path) -> None:
    (one, first), (_, second) = new_instance(tmp_path), new_instance(tmp_path)
    assert dead_instances(tmp_path) == []
    first.release()
    [(found, lock)] = dead_instances(tmp_path)
    assert found == one
    lock.release(remove=True)
    second.release(remove=True)
    assert not list(tmp_path.iterdir())


# -- several services on one folder --------------------------------------------------------------------------------


async def test_embedded_services_share_a_folder_with_each_other_and_with_a_served_one(start: Start) -> None:
    served = await start()
    first, second = [await start(journal=False, owner="local") for _ in range(2)]
    clients = [Client(first.http()), Client(second.http())]
    for client in clients:
        await client.open()
    model = await clients[0].create_model()
    await clients[0].forward_backward(model, 9)
    await clients[0].optim_step(model)
    path = await clients[0].save_state(model, "shared")
    loaded = await clients[1].load(path)
    assert second.link.models[loaded].weight == first.link.models[model].weight
    assert (await (await served.client()).get("checkpoints"))["checkpoints"][0]["tinker_path"] == path
    await clients[1].get(f"sessions/{clients[0].session_id}")
    await clients[1].post("session_heartbeat", {"session_id": clients[0].session_id}, 410)


async def test_what_a_killed_embedded_process_left_is_ended_by_the_next(start: Start) -> None:
    first = await start(journal=False, owner="local")
    client = Client(first.http())
    await client.open()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    path = await client.save_state(model, "kept")
    root = first.service.core.data_folder.root
    (root / "checkpoints" / model / "weights" / ".torn.tmp").mkdir()
    assert (root / "samplers" / sampler).exists()
    await first.crash()
    second = await start(journal=False, owner="local")
    statuses = second.service.core.db.read(lambda c: list(c.execute(text("SELECT status FROM sessions")).scalars()))
    assert statuses == ["interrupted"]
    assert not (root / "samplers" / sampler).exists()
    assert [f.name for f in (root / "checkpoints" / model / "weights").iterdir()] == ["kept"]
    assert len(list((root / "instances").glob("*.lock"))) == 1
    other = Client(second.http())
    await other.open()
    assert await other.load(path)


async def test_an_embedded_service_keeps_no_results_for_long_and_no_operations_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.server.sweeper._MEMORY_RETENTION_S", 0.05)
    running = await start(journal=False, owner="local")
    client = Client(running.http())
    await client.open()
    model = await client.create_model()
    for number in range(3):
        await client.forward_backward(model, number)
    unfetched = await client.post_step(model)
    await asyncio.sleep(0.1)
    await running.service.sweeper.sweep()
    assert {record.kind for record in running.service.core.futures.records()} == {
        OpKind.CREATE_MODEL,
        OpKind.OPTIM_STEP,
    }
    assert list(running.service.core.live.runs[model].ops) == [4]
    assert (await client.result(unfetched))["metrics"]["steps"] == 1


async def test_a_stop_stores_what_came_in(start: Start) -> None:
    first = await start(journal=False, owner="local")
    client = Client(first.http())
    await client.open()
    model = await client.create_model()
    body = {"model_id": model, "path": "last", "seq_id": 1, "overwrite": False}
    first.link.holding = True
    await client.post("save_weights", body)
    first.link.release()
    await first.service.stop()
    second = Client((await start(journal=False, owner="local")).http())
    listed = (await second.get("checkpoints"))["checkpoints"]
    assert [one["checkpoint_id"] for one in listed] == ["weights/last"]


async def test_a_second_served_one_is_refused(start: Start, tmp_path: Path) -> None:
    await start()
    other = Service(Settings(home=tmp_path / "data"), FakeLink(), BaseModels({}))
    with pytest.raises(StartupError, match="held by pid"):
        await other.start()


async def test_a_start_that_fails_gives_back_the_folder_and_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "tinsmith.db").write_bytes(b"this is no database" * 100)
    before = set(threading.enumerate())
    service = Service(Settings(home=tmp_path), FakeLink(), BaseModels({}))
    with pytest.raises(StartupError, match=r"database .*: (it cannot be used|damaged)|database: it cannot"):
        await service.start()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "tinsmith-writer"]
    claim(tmp_path, exclusive=True).release()
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = service.core


async def test_an_engine_that_cannot_start_says_why(start: Start) -> None:
    running = await start(FakeLink(broken="model tiny: got a folder that is no model"), wait=False)
    with pytest.raises(StartupError, match="no model"):
        await running.service.wait_ready()


def test_the_note_of_a_holder_is_json(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "serve.lock")
    lock.acquire()
    assert json.loads((tmp_path / "serve.json").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartupError, match=f"data folder: got {folder}, expected"):
            DataFolder(folder)
