"""The `Authorization` header as RFC 9110 has it, and keys that are revoked while they are in use."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.conftest import Running, Start
from tinsmith.server.http.routes import futures
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


async def test_a_poll_ends_when_its_key_is_revoked_elsewhere(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, which the service hears nothing from; what it trusts is short, a poll is long."""
    assert keys._TRUST_S + futures._LOOK_S < 2
    monkeypatch.setattr(keys, "_TRUST_S", 0.0)
    monkeypatch.setattr(futures, "_LOOK_S", 0.01)
    running = await start(long_poll_s=30.0)
    client = await running.client("ann")
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1, 2)
    poll = asyncio.create_task(client.poll(promise["request_id"]))
    await asyncio.sleep(0.05)
    assert not poll.done()
    other = Database(default_url(running.service.core.data_folder.root))
    try:
        [key] = [key for key in await keys.KeyStore(other).all() if key.owner == "ann"]
        await keys.KeyStore(other).revoke(key.id)
    finally:
        other.close()
    answer = await asyncio.wait_for(poll, 10)
    assert answer.status_code == 401
    assert "X-API-Key" in answer.json()["detail"]
