"""Saved checkpoints: names, lifetimes, sharing, deletion, files."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Running, Start, soon
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.journal.journal import Effect
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory

pytestmark = pytest.mark.anyio


def one(model: str, name: str, kind: str = "weights") -> str:
    return f"training_runs/{model}/checkpoints/{kind}/{name}"


async def call(client: Client, method: str, path: str, status: int, **options: object) -> str:
    answer = await client.http.request(method, f"/api/v1/{path}", **options)  # pyright: ignore
    assert answer.status_code == status, answer.text
    return answer.text


async def test_listings(running: Running) -> None:
    client = await running.client()
    first, second = await client.create_model(), await client.create_model()
    for name in ("a", "b"):
        await client.save_state(first, name, user_metadata={"n": name})
    path = await client.save_sampler(second, "a")
    page = await client.get("checkpoints", limit=2)
    assert [c["checkpoint_id"] for c in page["checkpoints"]] == ["sampler_weights/a", "weights/b"]
    assert page["cursor"] == {"offset": 0, "limit": 2, "total_count": 3}
    assert page["checkpoints"][0]["tinker_path"] == path == f"tinker://{second}/sampler_weights/a"
    assert page["checkpoints"][0]["checkpoint_type"] == "sampler"
    assert page["checkpoints"][1] | {"time": None} == {
        "checkpoint_id": "weights/b",
        "checkpoint_type": "training",
        "time": None,
        "tinker_path": f"tinker://{first}/weights/b",
        "size_bytes": page["checkpoints"][1]["size_bytes"],
        "public": False,
        "user_metadata": {"n": "b"},
        "base_model": "tiny",
        "lora_rank": 4,
    }
    assert page["checkpoints"][1]["size_bytes"] > 0
    of_run = await client.get(f"training_runs/{first}/checkpoints")
    assert [c["checkpoint_id"] for c in of_run["checkpoints"]] == ["weights/b", "weights/a"]
    runs = await client.get("training_runs", limit=1)
    assert runs["cursor"]["total_count"] == 2
    run = await client.get(f"training_runs/{first}")
    assert run["last_checkpoint"]["checkpoint_id"] == "weights/b"
    assert run["model_owner"] == "local"
    sizes = [checkpoint["size_bytes"] for checkpoint in of_run["checkpoints"]]
    assert (run["checkpoint_count"], run["size_bytes"]) == (2, sum(sizes))
    info = await client.post("weights_info", {"tinker_path": path})
    assert (info["base_model"], info["lora_rank"], info["train_mlp"]) == ("tiny", 4, True)


async def test_names_are_used_once_unless_overwritten(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.save_state(model, "a", user_metadata={"old": 1})
    with pytest.raises(Failed, match="path: got 'a', expected a name that this run has not used") as failed:
        await client.save_state(model, "a")
    assert failed.value.category == "user"
    await client.forward_backward(model, 9)
    stepped = await client.optim_step(model)
    path = await client.save_state(model, "a", overwrite=True)
    listed = (await client.get("checkpoints"))["checkpoints"]
    assert [c.get("user_metadata") for c in listed] == [None]
    folders = list((running.service.core.data_folder.root / "checkpoints" / model / "weights").iterdir())
    assert len(folders) == 1
    loaded = await client.load(path)
    assert running.link.models[loaded].weight == pytest.approx(stepped["weight"])
    for name in ("../up", "a/b", "", ".hidden", "x" * 300, "ä"):
        with pytest.raises(Failed, match="path: got"):
            await client.save_state(model, name)


async def test_names_that_cannot_be(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    for name in (5, "", "a/b", "x" * 201):
        with pytest.raises(Failed, match=r"^path: got "):
            await client.save_state(model, name)
    assert await client.save_state(model, "x" * 200)


async def test_a_name_is_taken_while_its_save_is_still_running(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    bodies = [{"model_id": model, "path": "a", "seq_id": client.seq(model), "overwrite": False} for _ in range(2)]
    first, second = [await client.post("save_weights", body) for body in bodies]
    running.link.release()
    assert await client.result(first)
    with pytest.raises(Failed, match="path: got 'a'"):
        await client.result(second)


async def test_a_checkpoint_can_be_loaded_while_it_is_being_saved(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    save = {"model_id": model, "path": "a", "seq_id": client.seq(model), "overwrite": False}
    await client.post("save_weights", save)
    load = asyncio.ensure_future(client.load(f"tinker://{model}/weights/a"))
    await asyncio.sleep(0.05)
    running.link.release()
    assert await load == f"{client.session_id}:train:1"


@pytest.mark.row(211)
async def test_a_save_that_is_done_and_not_stored_yet_is_waited_for_too(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await running.client()
    model = await client.create_model()
    journal, stored = running.service.core.journal, asyncio.Event()
    settle = journal.settle

    async def slow(record: Record, effects: Sequence[Effect] = ()) -> None:
        if record.kind is OpKind.SAVE_STATE:
            await stored.wait()
        await settle(record, effects)

    monkeypatch.setattr(journal, "settle", slow)
    saving = asyncio.create_task(client.save_state(model, "a"))
    futures = running.service.core.futures
    await soon(lambda: any(r.kind is OpKind.SAVE_STATE and r.state is State.DONE for r in futures.records()))
    loading = asyncio.create_task(client.load(f"tinker://{model}/weights/a"))
    with pytest.raises(Failed, match="has not used"):
        await client.save_state(model, "a")
    assert not loading.done()
    stored.set()
    assert await loading != model
    assert await saving == f"tinker://{model}/weights/a"


async def test_a_save_that_fails_leaves_nothing(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.fail = {OpKind.SAVE_STATE: ("No space left on device", RequestErrorCategory.SERVER)}
    with pytest.raises(Failed, match="No space left"):
        await client.save_state(model, "a")
    assert (await client.get("checkpoints"))["checkpoints"] == []
    running.link.fail = {}
    await client.save_state(model, "a")


async def test_loading_with_and_without_optimizer_and_into_a_model_that_exists(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    metrics = await client.optim_step(model)
    path = await client.save_state(model, "a")
    full, bare = await client.load(path), await client.load(path, optimizer=False)
    assert full == f"{client.session_id}:train:1"
    assert [running.link.models[m].steps for m in (full, bare)] == [1, 0]
    assert running.link.models[bare].weight == pytest.approx(metrics["weight"])
    other = await client.create_model(seed=5)
    await client.forward_backward(other, 1)
    body = {"model_id": other, "seq_id": client.seq(other), "path": path, "optimizer": True}
    assert (await client.result(await client.post("load_weights", body)))["path"] == path
    assert running.link.models[other].weight == pytest.approx(metrics["weight"])
    await client.forward_backward(other, 1)
    assert (await client.optim_step(other))["steps"] == 2
    assert (await client.post("get_info", {"model_id": full}))["lora_rank"] == 4


async def test_loads_that_cannot_be(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    model = await client.create_model()
    path, weights = await client.save_state(model, "a"), await client.save_sampler(model, "b")
    for bad, message in [
        ("nothing", "path: got 'nothing', expected tinker://"),
        (f"{path}/x", "path"),
        (weights, "expected a training state"),
        (f"{path}x", "expected a checkpoint of yours"),
    ]:
        with pytest.raises(Failed, match=message):
            await client.load(bad)
    with pytest.raises(Failed, match="expected a checkpoint of yours or a published one"):
        await other.load(path)
    with pytest.raises(Failed, match="base_model: got 'huge'"):
        await client.load(path, base_model="huge")
    wide = await client.create_model(rank=8)
    body = {"model_id": wide, "seq_id": 1, "path": path, "optimizer": True}
    with pytest.raises(Failed, match="rank 8"):
        await client.result(await client.post("load_weights", body))


async def test_publishing_lets_others_read_and_only_read(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    model = await client.create_model()
    path, weights = await client.save_state(model, "a"), await client.save_sampler(model, "b")
    await call(other, "POST", one(model, "a") + "/publish", 404)
    for _ in range(2):  # setting what is set is no error
        await call(client, "POST", one(model, "a") + "/publish", 204)
        await call(client, "POST", one(model, "b", "sampler_weights") + "/publish", 204)
    assert (await client.get("checkpoints"))["checkpoints"][0]["public"] is True
    assert (await other.get(f"training_runs/{model}/checkpoints"))["cursor"]["total_count"] == 2
    assert await other.get(f"training_runs/{model}", access_scope="accessible")
    await other.get(f"training_runs/{model}", status=404)
    assert (await other.get("training_runs", access_scope="accessible"))["cursor"]["total_count"] == 1
    assert (await other.get("checkpoints"))["cursor"]["total_count"] == 0
    loaded = await other.load(path)
    sampler = await other.sampler(model_path=weights)
    for method, tail in (("DELETE", ""), ("DELETE", "/publish"), ("POST", "/publish")):
        await call(other, method, one(model, "a") + tail, 404)
    await call(other, "PUT", one(model, "a") + "/ttl", 404, json={"ttl_seconds": 7200})
    for _ in range(2):
        await call(client, "DELETE", one(model, "a") + "/publish", 204)
    with pytest.raises(Failed):
        await other.load(path)
    await other.get(f"training_runs/{model}", access_scope="accessible")  # the other one is still published
    assert await other.forward_backward(loaded, 1)
    assert await other.sample(sampler)


async def test_a_token_of_the_owner_opens_a_private_checkpoint(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    path = await client.save_state(await client.create_model(), "a")
    token = await running.service.keys.create("local", "shared")
    assert await other.load(path, weights_access_token=token)
    with pytest.raises(Failed):
        await other.load(path, weights_access_token="tml-wrong")
    stored = "".join(str((record.work, record.note)) for record in running.service.core.futures.records())
    assert token not in stored


async def test_lifetimes(start: Start) -> None:
    running = await start(checkpoint_min_ttl_s=1)
    client = await running.client()
    model = await client.create_model()
    path = await client.save_state(model, "brief", ttl_seconds=1)
    assert (await client.get("checkpoints"))["checkpoints"][0]["expires_at"]
    with pytest.raises(Failed, match="ttl_seconds: got 0"):
        await client.save_state(model, "x", ttl_seconds=0)
    await client.save_state(model, "kept", ttl_seconds=1)
    await call(client, "PUT", one(model, "kept") + "/ttl", 204, json={"ttl_seconds": None})
    await call(client, "PUT", one(model, "kept") + "/ttl", 400, json={"ttl_seconds": 10**12})
    await call(client, "PUT", one(model, "kept") + "/ttl", 422, json={})
    await asyncio.sleep(1.1)
    assert [c["checkpoint_id"] for c in (await client.get("checkpoints"))["checkpoints"]] == ["weights/kept"]
    with pytest.raises(Failed):
        await client.load(path)
    folder = running.service.core.data_folder.root / "checkpoints" / model / "weights"
    assert (folder / "brief").exists()
    await running.service.sweeper.sweep()
    assert [f.name for f in folder.iterdir()] == ["kept"]


async def test_deleting_harms_no_model_that_was_made_from_it(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    path, weights = await client.save_state(model, "a"), await client.save_sampler(model, "b")
    running.link.holding = True
    load = {"session_id": client.session_id, "model_seq_id": 9, "path": path, "optimizer": True}
    promise = await client.post("load_weights", load)
    sampler = await client.sampler(model_path=weights)
    await call(client, "DELETE", one(model, "a"), 204)
    await call(client, "DELETE", one(model, "b", "sampler_weights"), 204)
    await call(client, "DELETE", one(model, "a"), 404)
    running.link.release()
    assert (await client.result(promise))["model_id"]
    assert await client.sample(sampler)
    assert not list((running.service.core.data_folder.root / "checkpoints" / model).glob("*/*"))


@pytest.mark.row(213)
async def test_files_are_those_of_the_checkpoint_and_no_others(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    model = await client.create_model()
    await client.save_state(model, "a")
    folder = running.service.core.data_folder.root / "checkpoints" / model / "weights" / "a"
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.bin").write_bytes(b"deep")
    (folder / "link").symlink_to("/etc/passwd")
    listed = (await client.get(one(model, "a") + "/files"))["files"]
    state = (folder / "state.json").read_bytes()
    assert {f["name"]: f["size_bytes"] for f in listed} == {
        "state.json": len(state),
        "weights.json": (folder / "weights.json").stat().st_size,
        "sub/deep.bin": 4,
    }
    assert hashlib.sha256(state).hexdigest() in {f["sha256"] for f in listed}
    assert await call(client, "GET", one(model, "a") + "/files/state.json", 200) == state.decode()
    assert await call(client, "GET", one(model, "a") + "/files/sub/deep.bin", 200) == "deep"
    await call(other, "GET", one(model, "a") + "/files", 404)
    await call(other, "GET", one(model, "a") + "/files/state.json", 404)
    secret = running.service.core.data_folder.root / "tinsmith.db"
    assert secret.exists()
    for name in (
        "../../../../tinsmith.db",
        "..%2f..%2f..%2f..%2ftinsmith.db",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/tinsmith.db",
        str(secret),
        "link",
        "sub",
        "state.json%00",
        "",
    ):
        answer = await client.http.get(f"/api/v1/{one(model, 'a')}/files/{name}")
        assert answer.status_code in (400, 404), name
    for bad in ("../checkpoints", "..", "%2e%2e", "weights%2f.."):
        answer = await client.http.get(f"/api/v1/training_runs/{model}/checkpoints/{bad}/a/files")
        assert answer.status_code in (400, 404, 405), bad
    await call(client, "POST", one(model, "a") + "/publish", 204)
    assert await call(other, "GET", one(model, "a") + "/files/state.json", 200) == state.decode()
    shutil.rmtree(folder)


async def test_what_is_not_served_is_refused_by_name(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    body = {"model_id": model, "path": "x", "seq_id": client.seq(model)}
    with pytest.raises(Failed, match="save_weights_external: not supported"):
        await client.result(await client.post("save_weights_external", body))
    assert await client.forward_backward(model, 1)
    with pytest.raises(Failed, match="create_custom_loss: not supported"):
        await client.result(await client.post("create_custom_loss", {"session_id": client.session_id}))
    answer = await client.post("copy_weights", {"source_path": "x"}, 400)
    assert answer["detail"] == "POST /api/v1/copy_weights: not supported by this service"
