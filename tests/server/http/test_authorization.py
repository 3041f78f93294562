"""The `Authorization` header as RFC 9110 has it, and keys that are revoked while they are in use."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from tests.server.conftest import Running, Start
from tinsmith.server.store import keys
from tinsmith.server.store.db.database import Database, default_url

pytestmark = [pytest.mark.anyio, pytest.mark.row(213)]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("Bearer {}", 200),
        ("bearer {}", 200),
        ("BEARER   {} ", 200),
        ("{}", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer{}", 401),
        ("Bearer {} {}", 401),
        ("Basic {}", 401),
        ("Token {}", 401),
        ("Digest username={}", 401),
    ],
)
async def test_schemes(running: Running, form: str, status: int) -> None:
    token = await running.service.keys.create("ann", "test")
    answer = await running.http().get("/api/v1/sessions", headers={"Authorization": form.replace("{}", token)})
    assert answer.status_code == status
    assert (answer.headers.get("WWW-Authenticate") == 'Bearer realm="tinsmith"') == (status == 401)


async def test_polls_end_when_their_key_is_revoked_elsewhere(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, which the service hears nothing from. One look serves all polls, and no other key's end."""
    assert keys._LOOK_S <= 1.0
    monkeypatch.setattr(keys, "_LOOK_S", 0.05)
    running = await start(long_poll_s=30.0)
    service = running.service
    ann, bob = await running.client("ann"), await running.client("bob")
    models = {"ann": await ann.create_model(), "bob": await bob.create_model()}
    running.link.holding = True
    polls: dict[str, list[asyncio.Task[httpx.Response]]] = {}
    for name, client in (("ann", ann), ("bob", bob)):
        promise = await client.post_pass(models[name], 1, 2)
        polls[name] = [asyncio.create_task(client.poll(promise["request_id"])) for _ in range(20)]
    looks = count_looks(service.keys, monkeypatch)
    await asyncio.sleep(0.3)
    assert len(service.core.futures.keys_of_polls()) == 2
    assert max(looks) == 2  # the keys of a look, whatever the number of their polls
    other = Database(default_url(service.core.data_folder.root))
    try:
        [key] = [key for key in await keys.KeyStore(other).all() if key.owner == "ann"]
        await keys.KeyStore(other).revoke(key.id)
    finally:
        other.close()
    for answer in await asyncio.wait_for(asyncio.gather(*polls["ann"]), 10):
        assert answer.status_code == 401
        assert "X-API-Key" in answer.json()["detail"]
    assert len(service.core.futures.keys_of_polls()) == 1
    assert not any(poll.done() for poll in polls["bob"])
    # Nobody trusts it any longer, either: the look has told.
    assert (await ann.http.get("/api/v1/sessions")).status_code == 401
    service.drain()
    assert {answer.status_code for answer in await asyncio.gather(*polls["bob"])} == {408}
    assert service.core.futures.keys_of_polls() == []


async def test_no_look_without_a_poll_and_a_look_that_fails_is_not_the_last(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_LOOK_S", 0.02)
    running = await start(long_poll_s=0.5)
    client = await running.client("ann")
    model = await client.create_model()
    await asyncio.sleep(0.1)  # a look at the last poll may be under way
    looks = count_looks(running.service.keys, monkeypatch)
    await asyncio.sleep(0.1)
    assert looks == []
    running.link.holding = True
    promise = await client.post_pass(model, 1, 2)
    valid = running.service.keys._valid

    async def fails_once(hashes: list[str]) -> set[str]:
        monkeypatch.setattr(running.service.keys, "_valid", valid)
        raise OperationalError("look", {}, Exception("the disk is gone"))

    monkeypatch.setattr(running.service.keys, "_valid", fails_once)
    assert (await client.poll(promise["request_id"])).status_code == 408
    assert "could not be looked at" in caplog.text
    assert looks


def count_looks(store: keys.KeyStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each look at the database was for."""
    looks: list[int] = []
    valid = store._valid

    async def counted(hashes: list[str]) -> set[str]:
        looks.append(len(hashes))
        return await valid(hashes)

    monkeypatch.setattr(store, "_valid", counted)
    return looks
