"""Two services on one database or one blob store: the second is told who holds it, and one that lost it stops."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.server.conftest import Running, Start, soon
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.journal.blobs import OWNER, BlobStore
from tinsmith.server.store.ownership import marks, ownership
from tinsmith.server.store.ownership.marks import Life, life, new_mark, parse
from tinsmith.server.store.ownership.ownership import Ownership
from tinsmith.server.store.ownership.places import BlobPlace, DatabasePlace, Place
from tinsmith.types.errors import StartupError

pytestmark = [pytest.mark.anyio, pytest.mark.row(213)]

SHARED = ("database", "blobs", "blobs in memory")


def shared(what: str, tmp_path: Path) -> dict[str, object]:
    """The setting of a service, in a folder of its own, that names what another one has."""
    return {
        "database": {"database_url": f"sqlite:///{tmp_path / 'shared.db'}"},
        "blobs": {"blob_url": f"file://{tmp_path / 'shared'}"},
        "blobs in memory": {"blob_url": f"memory://{tmp_path.name}"},
    }[what]


def place_of(running: Running, what: str) -> Place:
    [one] = [place for place in running.service.core.ownership._held if place.name.startswith(what.split()[0][:4])]
    return one


def elsewhere(running: Running, what: str, **changes: object) -> None:
    """Have a mark say that its holder runs on another machine."""
    place = place_of(running, what)
    swapped = False
    while not swapped:  # it may be refreshed in between
        found = place.read()
        assert found is not None
        mark = parse(found)
        assert mark is not None
        swapped = place.swap(found, replace(mark, host="other", **changes).text())


@pytest.mark.parametrize("what", SHARED)
async def test_a_second_service_does_not_start_and_says_who_holds_what(start: Start, tmp_path: Path, what: str) -> None:
    setting = shared(what, tmp_path)
    first = await start(home=tmp_path / "one", **setting)
    with pytest.raises(StartupError) as told:
        await start(home=tmp_path / "two", **setting)
    message = str(told.value)
    assert "\n" not in message
    assert re.match(rf"(database sqlite|blob store (file|memory)).*: held by pid {os.getpid()} on ", message)
    assert "since 20" in message
    assert re.search(r"last sign of life \d s ago", message)
    name = "TINSMITH_DATABASE_URL" if what == "database" else "TINSMITH_BLOB_URL"
    assert message.endswith(f"stop that one, or give this one another {name}")
    # The first goes on, and once it has stopped the second may start.
    client = await first.client()
    await client.create_model()
    await first.service.stop()
    await start(home=tmp_path / "two", **setting)


@pytest.mark.parametrize("what", SHARED)
async def test_a_service_that_does_not_start_leaves_no_mark(start: Start, tmp_path: Path, what: str) -> None:
    setting = shared(what, tmp_path)
    first = await start(home=tmp_path / "one", **setting)
    with pytest.raises(StartupError):
        await start(home=tmp_path / "two", **setting)
    await start(home=tmp_path / "two")
    assert first.service.lost is not None
    assert not first.service.lost.done()


_HOLD = """
import asyncio, sys, time
from tinsmith.server.store.db.database import Database
from tinsmith.server.store.ownership.ownership import Ownership
from tinsmith.server.store.ownership.places import DatabasePlace

async def hold():
    await Ownership([DatabasePlace(Database(sys.argv[1]))]).take()
    print("held", flush=True)
    time.sleep(600)

asyncio.run(hold())
"""


async def test_after_a_kill_the_next_start_takes_over_at_once(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLD, url, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    db = Database(url)
    try:
        with pytest.raises(StartupError, match=rf"held by pid {child.pid} on .*expected one that no other service"):
            await Ownership([DatabasePlace(db)]).take()
        child.kill()
        await child.wait()
        taken = Ownership([DatabasePlace(db)])
        await taken.take()
        taken.release()
        assert DatabasePlace(db).read() is None
    finally:
        db.close()


@pytest.mark.parametrize("what", SHARED)
async def test_a_killed_service_starts_again(start: Start, tmp_path: Path, what: str) -> None:
    setting = shared(what, tmp_path)
    await (await start(home=tmp_path / "one", **setting)).crash()
    await start(home=tmp_path / "two", **setting)


@pytest.mark.parametrize("what", SHARED)
async def test_a_holder_elsewhere_is_believed_for_a_while(
    start: Start, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_WATCH_S", 0.05)
    setting = shared(what, tmp_path)
    first = await start(home=tmp_path / "one", **setting)
    await first.crash()
    elsewhere(first, what)
    with pytest.raises(StartupError, match=r"on other since .*; if it is dead, start again 30 s after its last sign"):
        await start(home=tmp_path / "two", **setting)
    elsewhere(first, what, beat=time.time() - marks.SILENT_S - 1)
    await start(home=tmp_path / "two", **setting)


async def test_a_silent_holder_that_beats_while_it_is_watched_is_alive(tmp_path: Path, monkeypatch) -> None:
    """Its clock is another's: what counts is that the mark changes."""
    monkeypatch.setattr(ownership, "_WATCH_S", 0.3)
    place = BlobPlace(BlobStore(str(tmp_path)))
    behind = replace(new_mark(time.time() - 3600), host="other")
    assert place.swap(None, behind.text())
    taking = asyncio.ensure_future(Ownership([place]).take())
    await asyncio.sleep(0.1)
    assert place.swap(behind.text(), behind.refreshed(behind.beat + 5).text())
    with pytest.raises(StartupError, match=r"last sign of life 3\d\d\d s ago"):
        await taking


async def test_two_that_start_at_once_do_not_both_get_it(tmp_path: Path) -> None:
    databases = [Database(default_url(tmp_path)) for _ in range(4)]
    try:
        both = [Ownership([DatabasePlace(db), BlobPlace(BlobStore(str(tmp_path / "b")))]) for db in databases]
        done = await asyncio.gather(*(one.take() for one in both), return_exceptions=True)
        assert [type(one) for one in done if one is not None] == [StartupError] * 3
    finally:
        for db in databases:
            db.close()


@pytest.mark.parametrize("what", SHARED)
async def test_a_service_that_lost_its_mark_stops_and_writes_nothing_more(
    start: Start, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.02)
    running = await start(**shared(what, tmp_path))
    lost = running.service.lost
    assert lost is not None
    client = await running.client()
    model = await client.create_model()
    elsewhere(running, what, id="theirs")
    assert re.search(r"taken over by pid \d+ on other since", await asyncio.wait_for(lost, 5))
    before = _operations(running)
    answer = await client.http.post("/api/v1/optim_step", json={"model_id": model, "seq_id": 1, "adam_params": {}})
    assert answer.status_code == 503, answer.text
    with pytest.raises(OSError, match=r"taken over by"):
        await running.service.core.journal._blobs.put("k", b"x")
    with pytest.raises(OSError, match=r"taken over by"):
        await running.service.core.journal._blobs.delete(["k"])
    assert _operations(running) == before
    await running.service.stop()
    # It gives back what it holds, and not what another has.
    kept = running.service.core.ownership
    assert kept is not None
    assert not kept._held


def _operations(running: Running) -> int:
    return running.service.core.db.read(lambda c: c.execute(text("SELECT count(*) FROM operations")).scalar_one())


async def test_nothing_is_written_from_the_moment_of_a_takeover(start: Start) -> None:
    """Before the service can have noticed: each transaction looks at the mark."""
    running = await start()
    client = await running.client()
    model = await client.create_model()
    elsewhere(running, "database", id="theirs")
    before = _operations(running)
    with pytest.raises(AssertionError, match=r"optim_step: 503 .*storage"):
        await client.post_step(model)
    assert _operations(running) == before
    assert running.service.lost is not None
    assert "on other since" in await asyncio.wait_for(running.service.lost, 5)


async def test_the_blobs_and_rows_of_the_other_stay(start: Start, tmp_path: Path) -> None:
    """The start of a second service sweeps blobs that no row of its names: those of the first must not be there."""
    url = str(tmp_path / "shared")
    await start(home=tmp_path / "one", blob_url=url)
    kept = BlobStore(url)
    await kept.put("of-the-first.body", b"x")
    with pytest.raises(StartupError, match=r"^blob store "):
        await start(home=tmp_path / "two", blob_url=url)
    assert kept.keys() == ["of-the-first.body"]
    assert (tmp_path / "shared" / OWNER).is_file()


async def test_a_sign_of_life_that_cannot_be_left_is_said_once_and_is_not_the_last(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.01)
    running = await start()
    blobs = place_of(running, "blobs")
    swap, refused = blobs.swap, 0

    def full(old: str | None, new: str | None) -> bool:
        nonlocal refused
        refused += 1
        if refused <= 5:
            raise OSError(28, "No space left on device")
        return swap(old, new)

    monkeypatch.setattr(blobs, "swap", full)
    # A sign that was under way when the disk filled may still come; those that count come after the refusals.
    await soon(lambda: refused >= 5)
    before = blobs.read()
    await soon(lambda: blobs.read() != before)
    assert refused > 5
    assert len([line for line in caplog.messages if "no sign of life can be left: [Errno 28]" in line]) == 1
    assert running.service.lost is not None
    assert not running.service.lost.done()


def test_a_message_holds_no_password(tmp_path: Path) -> None:
    blobs = BlobStore(str(tmp_path))
    blobs.url = "ftp://ann:secret@host/bucket"
    assert BlobPlace(blobs).name == "blob store ftp://***@host/bucket"


async def test_services_without_a_journal_share_a_database(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        running = await start(owner="local", journal=False)
        assert running.service.lost is None


@pytest.mark.parametrize("found", ["", "{}", "[1]", '{"id": 3}', "\x00\xff", '{"pid": "x"}'])
async def test_a_mark_that_cannot_be_read_is_watched_and_then_replaced(
    tmp_path: Path, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_WATCH_S", 0.01)
    (tmp_path / OWNER).write_text(found)
    place = BlobPlace(BlobStore(str(tmp_path)))
    taken = Ownership([place])
    await taken.take()
    assert parse(place.read() or "") is not None
    taken.release()
    assert place.read() is None


def test_a_later_process_with_the_same_pid_is_not_the_holder() -> None:
    now = time.time()
    mark = replace(new_mark(now), pid=os.getppid())
    assert life(replace(mark, began=marks._began(os.getppid()) or "").text(), frozenset(), now) is Life.ALIVE
    assert life(replace(mark, began="1").text(), frozenset(), now) is Life.DEAD
    assert life(replace(mark, pid=2**22 + 1).text(), frozenset(), now) is Life.DEAD


def test_a_process_that_has_ended_but_is_not_buried_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        mark = replace(new_mark(time.time()), pid=child.pid, began=marks._began(child.pid) or "x")
        while marks._began(child.pid) is not None:
            time.sleep(0.01)
        assert os.path.exists(f"/proc/{child.pid}")
        assert life(mark.text(), frozenset(), time.time()) is Life.DEAD


def test_what_ran_before_the_machine_was_started_anew_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(marks, "_machine", lambda: "m")
    monkeypatch.setattr(marks, "_space", lambda: marks._FIRST_SPACE)
    before = replace(new_mark(now), boot="the one before")
    assert life(before.text(), frozenset(), now) is Life.DEAD
    for other in ({"machine": "n"}, {"host": "h"}, {"space": "of a container"}):
        assert life(replace(before, **other).text(), frozenset(), now) is Life.ALIVE
    monkeypatch.setattr(marks, "_machine", lambda: "")
    assert life(replace(before, machine="").text(), frozenset(), now) is Life.ALIVE


def test_a_clock_that_is_ahead_says_no_more_than_one_that_is_behind() -> None:
    now = time.time()
    far = replace(new_mark(now), host="other")
    for beat, expected in ((now, Life.ALIVE), (now + 20, Life.ALIVE), (now + 3600, Life.SILENT)):
        assert life(replace(far, beat=beat).text(), frozenset(), now) is expected
