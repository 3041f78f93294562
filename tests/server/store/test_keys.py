"""Keys: the first one, revoked ones, and every path asks for one and shows only what is its owner's."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from tests.server.client import ADAM, Failed
from tests.server.conftest import Running, Start, soon
from tests.support.fakes.fake_link import FakeLink
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.db.tables import ApiKey
from tinsmith.server.store.keys import check_token
from tinsmith.settings import Settings
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.errors import StartupError, UserError

pytestmark = pytest.mark.anyio

OPEN_PATHS = {"/healthz", "/api/v1/healthz", "/metrics"}


def routes(running: Running) -> list[tuple[str, str]]:
    """Every method and path of the app, with parameters filled in."""
    return _walk(running.app.routes)


def _walk(found: list) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for route in found:
        if isinstance(route, Route):
            pairs += [(method, route.path) for method in sorted(route.methods)]
        elif hasattr(route, "original_router"):
            pairs += _walk(route.original_router.routes)
        else:
            raise AssertionError(f"a route that this test does not know: {route}")
    return pairs


def filled(path: str, **values: str) -> str:
    return re.sub(r"\{(\w+)(:path)?\}", lambda match: values.get(match[1], "x"), path)


@pytest.mark.row(213)
async def test_every_path_but_health_and_numbers_asks_for_a_key(running: Running) -> None:
    walked = routes(running)
    assert len(walked) > 35
    for method, path in walked:
        if path in OPEN_PATHS:
            continue
        for key in (None, "tml-wrong-wrong", "wrong"):
            answer = await running.http(key).request(method, filled(path), content=b"{}")
            assert answer.status_code == 401, (method, path, answer.text)
            assert "X-API-Key" in answer.json()["detail"]


@pytest.mark.row(213)
async def test_no_path_shows_or_changes_what_is_somebody_elses(running: Running) -> None:
    mine, other = await running.client(), await running.client("other")
    model = await mine.create_model()
    path, weights = await mine.save_state(model, "a"), await mine.save_sampler(model, "a")
    sampler = await mine.snapshot(model)
    promise = await mine.post_sample(sampler)
    await mine.result(promise)
    values = {"run_id": model, "kind": "weights", "name": "a", "session_id": mine.session_id, "file": "state.json"}
    fields = {
        "session_id": mine.session_id,
        "model_id": model,
        "sampling_session_id": sampler,
        "request_id": promise["request_id"],
        "tinker_path": path,
        "model_path": weights,
        "path": path,
        "optimizer": True,
        "seq_id": 9,
        "model_seq_id": 9,
        "sampling_session_seq_id": 9,
        "base_model": "tiny",
        "lora_config": {"rank": 4},
        "adam_params": ADAM,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
        "reason": {"type": "success"},
        "ttl_seconds": 7200,
    }
    before = (await mine.get("checkpoints"), len(running.link.submitted))
    owns_nothing = {"/training_runs", "/checkpoints", "/sessions", "/get_server_capabilities", "/auth/apikey/me"}
    about_nobody = {"/client/config", "/client/dynamic_config", "/telemetry", "/create_session", "/tokenizer"}
    checked = 0
    for method, route in routes(running):
        short = route.removeprefix("/api/v1")
        if route in OPEN_PATHS or short in about_nobody:
            continue
        content: dict = {"json": fields}
        if short == "/forward_backward":
            body = encode_forward_backward_request(model, 9, [], "cross_entropy")
            content = {"content": body, "headers": {"Content-Type": "application/x-protobuf"}}
        answer = await other.http.request(method, filled(route, sampler_id=sampler, **values), **content)
        if short in owns_nothing:
            assert model not in answer.text, route
            assert mine.session_id not in answer.text, route
        elif answer.status_code == 200 and "request_id" in answer.json():
            with pytest.raises(Failed):
                await other.result(answer.json())
        else:
            assert answer.status_code in (400, 404), (method, route, answer.status_code, answer.text)
        checked += 1
    assert checked > 30
    assert (await mine.get("checkpoints"), len(running.link.submitted)) == before
    assert await mine.forward_backward(model, 1)


async def test_faults_of_the_transport_are_json(running: Running) -> None:
    client = await running.client()
    for method, path, status in [
        ("GET", "/nothing", 404),
        ("POST", "/api/v1/forward_bakward", 404),
        ("GET", "/api/v1/optim_step", 405),
        ("GET", "/api/v1/training_runs?limit=x", 422),
        ("GET", "/api/v1/training_runs?limit=0", 422),
        ("GET", "/api/v1/tokenizer", 422),
    ]:
        answer = await client.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["detail"]
    detail = (await client.http.get("/api/v1/training_runs?limit=x")).json()["detail"]
    assert detail.startswith("limit: got 'x', expected ")
    answer = await client.http.post("/api/v1/get_info", json={"model_id": 3})
    assert answer.json()["detail"] == "model_id: got 3, expected a valid string"


async def test_keys_are_stored_hashed_revoked_at_once_elsewhere_and_described(running: Running) -> None:
    keys = running.service.keys
    token = await keys.create("ann", "laptop")
    assert token.startswith("tml-")
    assert await keys.owner_of(token) == "ann"
    raw = running.service.core.data_folder.root.joinpath("tinsmith.db").read_bytes()
    wal = running.service.core.data_folder.root.joinpath("tinsmith.db-wal").read_bytes()
    assert token.encode() not in raw + wal
    answer = await running.http(token).get("/api/v1/auth/apikey/me")
    assert answer.json()["name"] == "laptop"
    assert (await running.http().get("/api/v1/sessions", headers={"Authorization": f"Bearer {token}"})).is_success
    [key] = [key for key in await keys.all() if key.owner == "ann"]
    await keys.revoke(key.id)
    keys._trusted.clear()
    assert (await running.http(token).get("/api/v1/sessions")).status_code == 401
    with pytest.raises(Exception, match="expected the id of a key that is not revoked"):
        await keys.revoke(key.id)


@pytest.mark.row(20, 214)
async def test_the_first_key_is_the_given_one_or_made_once(start: Start, tmp_path: object) -> None:
    running = await start()
    assert await running.service.keys.ensure_first("tml-of-my-own") == "tml-of-my-own"
    assert await running.service.keys.owner_of("tml-of-my-own") == "local"
    assert await running.service.keys.ensure_first(None) is None
    assert await running.service.keys.ensure_first("tml-another-one") is None
    assert await running.service.keys.owner_of("tml-another-one") is None
    await running.service.core.db.write(lambda connection: connection.execute(ApiKey.__table__.delete()))
    made = await running.service.keys.ensure_first(None)
    assert made is not None
    check_token(made)
    assert await running.service.keys.ensure_first(None) is None


@pytest.mark.parametrize("token", ["sk-something-else", "tml-", "tml-short", "tml-with blanks in it", "tml-ümläut-key"])
async def test_a_key_of_another_form_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(StartupError, match="TINSMITH_API_KEY: got"):
        check_token(token)


async def test_an_owner_of_the_whole_service_needs_no_key(tmp_path: Path) -> None:
    service = Service(Settings(home=tmp_path), FakeLink(), BaseModels({}), owner="local", journal=False)
    await service.start()
    try:
        running = Running(service, FakeLink())
        running.app = create_app(service)
        assert (await running.http().get("/api/v1/sessions")).json() == {"sessions": []}
    finally:
        await service.stop()


async def test_an_owners_operations_carry_the_weight_of_its_heaviest_key(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.server.store.keys._TRUST_S", 0.0)

    async def weight_of_a_step() -> float:
        await mine.optim_step(model)
        return next(op.weight for op in reversed(running.link.submitted) if op.owner == "ann")

    mine = await running.client("ann")
    model = await mine.create_model()
    keys = running.service.keys
    assert await weight_of_a_step() == 1.0
    await keys.create("ann", "heavy", weight=4.0)
    await keys.create("ann", "light", weight=0.5)
    assert await weight_of_a_step() == 4.0
    [heavy] = [key for key in await keys.all() if key.name == "heavy"]
    await keys.revoke(heavy.id)
    assert await weight_of_a_step() == 1.0
    other = await running.client("bob")
    await other.create_model()
    assert running.link.submitted[-1].weight == 1.0


async def test_what_a_start_hands_over_again_has_its_weight_too(start: Start) -> None:
    """Before any key has been looked up."""
    running = await start()
    await running.service.keys.create("ann", "heavy", weight=4.0)
    client = await running.client("ann")
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1, 2)
    home = running.service.core.data_folder.root
    await running.crash()
    again = await start(home=home)
    await soon(lambda: any(op.request_id == promise["request_id"] for op in again.link.submitted))
    assert {op.weight for op in again.link.submitted if op.owner == "ann"} == {4.0}


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.001, 101.0, float("nan"), float("inf")])
async def test_weights_out_of_bounds_are_refused(running: Running, weight: float) -> None:
    with pytest.raises(UserError, match=r"weight: got .*, expected 0\.01 to 100"):
        await running.service.keys.create("ann", "k", weight=weight)


async def test_one_look_serves_all_requests_of_a_key(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each looks by itself, a burst takes longer than a look is trusted, and the next one looks again."""
    keys = running.service.keys
    token = await keys.create("ann", "test")
    looks, look = 0, keys._look_up

    async def counted(hashed: str) -> str | None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        return await look(hashed)

    monkeypatch.setattr(keys, "_look_up", counted)
    asking = [asyncio.create_task(keys.owner_of(token)) for _ in range(100)]
    await asyncio.sleep(0)
    # The one that looks goes away, and others with it: nobody loses the answer by that.
    for task in asking[:3]:
        task.cancel()
    assert await asyncio.gather(*asking[3:]) == ["ann"] * 97
    assert await asyncio.gather(*(keys.owner_of("tml-nobody") for _ in range(5))) == [None] * 5
    assert looks == 2


async def test_a_look_that_fails_fails_for_all_and_is_made_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = running.service.keys
    token = await keys.create("ann", "test")
    read = keys._db.read_async

    async def broken(job: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(keys._db, "read_async", broken)
    found = await asyncio.gather(*(keys.owner_of(token) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in found] == [OSError] * 5
    monkeypatch.setattr(keys._db, "read_async", read)
    assert await keys.owner_of(token) == "ann"
