"""Sessions: heartbeats, the end, expiry."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.client import Failed
from tests.server.conftest import Running, Start, soon

pytestmark = pytest.mark.anyio

SUCCESS = {"reason": {"type": "success"}, "detail": None}


async def test_session_ids_cannot_be_guessed_and_sessions_are_listed(running: Running) -> None:
    client = await running.client()
    body = {"tags": ["a"], "user_metadata": {"k": 1, "s": "é"}, "display_name": "mine", "project_id": "p"}
    second = (await client.post("create_session", body))["session_id"]
    assert len(second) == 36
    assert (await client.get("sessions"))["sessions"] == [second, client.session_id]
    assert (await client.get("sessions", limit=1, offset=1))["sessions"] == [client.session_id]
    model = await client.create_model()
    sampler = await client.snapshot(model)
    listed = await client.get(f"sessions/{client.session_id}")
    assert listed["training_run_ids"] == [model]
    assert listed["sampler_ids"] == [sampler]
    assert await client.get(f"sessions/{second}") == {
        "training_run_ids": [],
        "sampler_ids": [],
        "user_metadata": {"k": "1", "s": "é"},  # other clients take text only
        "display_name": "mine",
    }
    for path in ("sessions", "training_runs", "checkpoints"):
        assert not next(iter((await client.get(path, offset=2**63 - 1)).values()))
        assert "offset: got" in (await client.get(path, 422, offset=2**63))["detail"]


async def test_heartbeats_of_live_ended_and_foreign_sessions(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    beat = {"session_id": client.session_id, "type": "session_heartbeat"}
    assert await client.post("session_heartbeat", beat) == {"type": "session_heartbeat"}
    await other.post("session_heartbeat", beat, 404)
    await other.post(f"sessions/{client.session_id}/finish", SUCCESS, 404)
    await client.post(f"sessions/{client.session_id}/finish", SUCCESS, 204)
    await client.post("session_heartbeat", beat, 410)
    await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "errored"}}, 204)
    await soon(lambda: not running.service.core.live.sessions.get(client.session_id))
    await client.post("session_heartbeat", beat, 410)
    await other.post("session_heartbeat", beat, 404)
    await client.post(f"sessions/{client.session_id}/finish", SUCCESS, 204)


async def test_the_end_carries_out_what_was_asked_for_and_frees_the_rest(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    running.link.holding = True
    body = {"model_id": model, "path": "final", "seq_id": client.seq(model), "overwrite": False}
    save, sample = await client.post("save_weights", body), await client.post_sample(sampler)
    await client.post(f"sessions/{client.session_id}/finish", SUCCESS, 204)
    late = await client.post_pass(model, 1)
    with pytest.raises(Failed, match="whose session has not ended"):
        await client.result(late)
    running.link.release()
    assert (await client.result(save))["path"].endswith("/weights/final")
    await soon(lambda: not running.link.models)
    await soon(lambda: not running.link.samplers)
    assert await client.result(save)
    assert (await client.get("checkpoints"))["cursor"]["total_count"] == 1
    assert sample["request_id"]
    root = running.service.core.data_folder.root
    await soon(lambda: not list((root / "samplers").iterdir()) and not list((root / "recovery").glob("*")))
    assert (await client.get("training_runs"))["training_runs"][0]["training_run_id"] == model


async def test_silent_sessions_expire(start: Start) -> None:
    running = await start(session_timeout_s=1.0, result_retention_s=10)
    client, alive = await running.client(), await running.client()
    model = await client.create_model()
    running.link.holding = True
    waiting = await client.post_pass(model, 1)
    for _ in range(6):
        await asyncio.sleep(0.2)  # a fifth of the time-out, so that a busy machine ends no session by itself
        await alive.post("session_heartbeat", {"session_id": alive.session_id})
    await running.service.sweeper.sweep()
    with pytest.raises(Failed, match="no sign of life"):
        await client.result(waiting)
    running.link.release()
    await soon(lambda: not running.link.models)
    await client.post("session_heartbeat", {"session_id": client.session_id}, 410)
    await alive.post("session_heartbeat", {"session_id": alive.session_id})


async def test_a_session_that_ends_while_a_request_is_checked(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await running.client()
    session = running.service.core.live.sessions[client.session_id]
    find = running.service.core.catalog.find

    async def slow(name: str) -> object:
        await running.service.sessions.end(session, "finished", "its session was finished")
        return await find(name)

    monkeypatch.setattr(running.service.core.catalog, "find", slow)
    with pytest.raises(Failed, match="session_id"):
        await client.create_model()
