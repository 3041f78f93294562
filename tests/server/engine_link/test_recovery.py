"""kill -9 of the engine and of the whole service: the same futures complete, with the weights of a calm run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running, Start, engine_dies, soon
from tinsmith.types.engine_messages.operations import OpKind

pytestmark = [pytest.mark.anyio, pytest.mark.row(11, 210)]


# -- the engine ----------------------------------------------------------------------------------------------------


async def test_an_engine_that_dies_between_pass_and_step(running: Running) -> None:
    client = await running.client()
    model, calm = await client.create_model(), await client.create_model()
    for one in (model, calm):
        await client.forward_backward(one, 9)
        await client.optim_step(one)
        await client.forward_backward(one, 5)
    expected = await client.optim_step(calm)
    await engine_dies(running)
    assert await client.optim_step(model) == expected


async def test_an_engine_that_dies_while_it_works(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promises = [await client.post_pass(model, 9), await client.post_step(model)]
    poll = asyncio.ensure_future(client.result(promises[1]))
    running.link.kill()
    later = await client.post_pass(model, 1)
    running.link.revive()
    running.link.release()
    assert (await poll)["metrics"]["steps"] == 1
    assert await client.result(later)
    kinds = [kind for kind, _ in running.link.ran]
    assert kinds == [OpKind.CREATE_MODEL, OpKind.FORWARD_BACKWARD, OpKind.OPTIM_STEP, OpKind.FORWARD_BACKWARD]


async def test_samples_and_snapshots_survive(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    await client.optim_step(model)
    running.link.flushing = False
    on_disk = await client.snapshot(model)
    running.link.flush()
    await client.forward_backward(model, 9)
    await client.optim_step(model)
    in_memory = await client.snapshot(model)
    base = await client.sampler(base_model="tiny")
    before = [(await client.sample(s, 0, params={"seed": 1})).sequences[0] for s in (on_disk, in_memory, base)]
    running.link.holding = True
    pending = [await client.post_sample(s, 1, params={"seed": 1}) for s in (on_disk, in_memory, base)]
    unseeded = await client.post_sample(base, 2)
    running.link.kill()
    running.link.holding = False
    running.link.revive()
    assert [(await client.result(p)).sequences[0] for p in pending] == before
    assert await client.result(unseeded)
    assert before[0].logprobs != before[1].logprobs


async def test_a_sample_without_a_seed_draws_the_same_tokens_again(restarting: Restarting) -> None:
    client = await restarting.begin()
    sampler = await client.sampler(base_model="tiny")
    running = restarting.running
    running.link.holding = True
    promise = await client.post_sample(sampler)
    sent = running.service.core.futures.find(promise["request_id"])
    assert sent is not None
    body, _ = await running.service.core.journal.body(sent)
    await restarting.kill(client)
    assert await client.result(promise)
    again = next(op for op in restarting.running.link.submitted if op.kind is OpKind.SAMPLE)
    # What it draws is a matter of its id, body and weights (see `sample_seed`).
    assert (again.request_id, again.body) == (sent.request_id, body)


async def test_requests_that_came_while_there_was_no_engine(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.kill()
    health = await running.http().get("/healthz")
    assert health.status_code == 503
    promises = [await client.post_pass(model, 2), await client.post_step(model)]
    sampler = await client.sampler(base_model="tiny")
    sample = await client.post_sample(sampler)
    created = {"session_id": client.session_id, "model_seq_id": 8, "base_model": "tiny", "lora_config": {"rank": 4}}
    creation = await client.post("create_model", created)
    refused = await client.post_pass(model, 1, loss_fn="nothing")
    running.link.revive()
    for promise in (*promises, sample, creation):
        assert await client.result(promise)
    with pytest.raises(Failed):
        await client.result(refused)
    assert (await running.http().get("/healthz")).status_code == 200


async def test_health_says_why_the_engine_is_away_and_losses_are_counted_by_cause(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1)
    running.link.kill("the engine process said nothing for 30 s", "stopped")
    health = await running.http().get("/healthz")
    assert health.status_code == 503
    assert "the engine process said nothing for 30 s" in health.json()["detail"]
    running.link.holding = False
    running.link.revive()
    assert await client.result(promise)
    assert (await running.http().get("/healthz")).json() == {"status": "ok"}
    assert 'tinsmith_engine_losses_total{cause="stopped"} 1.0' in (await running.http().get("/metrics")).text


# -- recovery points -----------------------------------------------------------------------------------------------


async def test_a_point_shortens_the_replay_and_cuts_the_journal(start: Start) -> None:
    running = await start(recovery_interval_s=1e-6)
    client = await running.client()
    model, calm = await client.create_model(), await client.create_model()
    for one in (model, calm):
        for number in range(5):
            await client.forward_backward(one, number)
            await client.optim_step(one)
    run = running.service.core.live.runs[model]
    await soon(lambda: run.cut == 10)
    root = running.service.core.data_folder.root
    assert len(list((root / "recovery" / model).iterdir())) == 1
    bodies = [record.body_digest for record in running.service.core.futures.records() if record.model_id == model]
    assert any(bodies)
    await client.forward_backward(model, 7)
    await client.forward_backward(calm, 7)
    expected = await client.optim_step(calm)
    await engine_dies(running)
    assert await client.optim_step(model) == expected
    replayed = [seq for kind, seq in running.link.ran if kind is OpKind.FORWARD_BACKWARD]
    assert set(replayed) == {11}


async def test_the_journal_is_not_cut_behind_a_snapshot_that_is_not_on_disk(start: Start) -> None:
    running = await start(recovery_interval_s=1e-6)
    client = await running.client()
    model = await client.create_model()
    running.link.flushing = False
    await client.forward_backward(model, 9)
    sampler = await client.snapshot(model)
    before = (await client.sample(sampler, params={"seed": 1})).sequences[0]
    await client.optim_step(model)
    run = running.service.core.live.runs[model]
    await soon(lambda: len(run.points) == 1)
    assert set(run.ops) == {1, 2, 3}
    await engine_dies(running)
    assert (await client.sample(sampler, 1, params={"seed": 1})).sequences[0] == before
    running.link.flush()
    await soon(lambda: not run.ops)
    await engine_dies(running)
    assert (await client.sample(sampler, 2, params={"seed": 1})).sequences[0] == before
    assert not [kind for kind, _ in running.link.ran if kind is OpKind.SNAPSHOT]


async def test_a_long_replay_ends_with_a_new_point(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    for number in range(10):
        await client.forward_backward(model, number)
        await client.optim_step(model)
    await engine_dies(running)
    await soon(lambda: running.service.core.live.runs[model].cut == 20)


# -- the service ---------------------------------------------------------------------------------------------------


async def test_the_service_dies_and_the_same_futures_complete(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    done = await client.post_pass(model, 9)
    result = await client.result(done)
    path = await client.save_state(model, "kept")
    restarting.running.link.holding = True
    waiting = [await client.post_step(model), await client.post_pass(model, 3)]
    body = {"model_id": model, "path": "later", "seq_id": client.seq(model), "overwrite": False}
    waiting.append(await client.post("save_weights", body))
    sampler = {"model_id": model, "seq_id": client.seq(model), "sampling_session_seq_id": next(client.samplers)}
    waiting.append(await client.post("save_weights_for_sampler", sampler))
    await restarting.kill(client)
    assert (await client.result(waiting[0]))["metrics"]["weight"] == pytest.approx(4 - 0.1 * (0.09 + 0.4))
    assert (await client.result(done)).metrics == result.metrics
    for promise in waiting[1:]:
        assert await client.result(promise)
    repeated = await client.post("save_weights", body)
    assert repeated == waiting[2]
    listed = {c["checkpoint_id"] for c in (await client.get("checkpoints"))["checkpoints"]}
    assert listed == {"weights/kept", "weights/later"}
    loaded = await client.load(path)
    assert restarting.running.link.models[loaded].weight == 4
    assert await client.sample(f"{client.session_id}:sample:0")
    await client.post("session_heartbeat", {"session_id": client.session_id})


async def test_a_model_from_a_checkpoint_that_was_deleted_since(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    await client.forward_backward(model, 9)
    metrics = await client.optim_step(model)
    path = await client.save_state(model, "a")
    loaded = await client.load(path)
    await client.http.delete(f"/api/v1/training_runs/{model}/checkpoints/weights/a")
    await restarting.kill(client)
    await client.result(await client.post_pass(loaded, 1))
    assert restarting.running.link.models[loaded].weight == pytest.approx(metrics["weight"])


async def test_a_finished_session_is_drained_after_a_restart(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    restarting.running.link.holding = True
    body = {"model_id": model, "path": "final", "seq_id": 1, "overwrite": False}
    promise = await client.post("save_weights", body)
    await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "success"}}, 204)
    await restarting.kill(client)
    assert (await client.result(promise))["path"]
    await soon(lambda: client.session_id not in restarting.running.service.core.live.sessions)


async def script(client: Client, seed: int, trouble: Callable[[], Awaitable[None]] | None = None) -> list[object]:
    """Run a pseudo-random training script and return all outcomes; after any request there may be trouble."""
    rng = random.Random(seed)
    model = await client.create_model()
    posts: list[dict] = []
    snapshots = 0
    for kind in [*rng.choices(KINDS, k=25), "step", "pass", "step"]:
        posts.append(await request(client, model, kind, rng))
        if kind == "snapshot":
            if rng.random() < 0.5:
                await client.close_sampler(f"{client.session_id}:sample:{snapshots}")
            snapshots += 1
        if rng.random() < 0.5:
            await outcome(client, posts[-1])
        if trouble is not None:
            await trouble()
    return [await outcome(client, post) for post in posts]


KINDS = ["pass", "pass", "pass", "forward", "step", "step", "bad pass", "bad step", "save", "snapshot"]


async def request(client: Client, model: str, kind: str, rng: random.Random) -> dict:
    seq = client.seq(model)
    tokens = [rng.randrange(1, 99) for _ in range(rng.randrange(1, 6))]
    match kind:
        case "pass" | "forward":
            return await client.post_pass(model, *tokens, seq_id=seq, forward_only=kind == "forward")
        case "bad pass":
            return await client.post_pass(model, 100, seq_id=seq)
        case "step" | "bad step":
            return await client.post_step(model, seq, learning_rate=0.1 if kind == "step" else -1.0)
        case "save":
            return await client.post("save_weights", {"model_id": model, "path": f"s{seq}", "seq_id": seq})
    body = {"model_id": model, "seq_id": seq, "sampling_session_seq_id": next(client.samplers)}
    return await client.post("save_weights_for_sampler", body)


async def outcome(client: Client, promise: dict) -> object:
    try:
        result = await client.result(promise)
    except Failed as failed:
        return failed.category
    return result.get("metrics") if isinstance(result, dict) else result.metrics


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("interval", [1e9, 1e-6])
async def test_any_script_under_any_deaths_ends_like_a_calm_one(
    start: Start, tmp_path: Path, seed: int, interval: float
) -> None:
    peaceful = await start(home=tmp_path / "calm")
    expected = await script(await peaceful.client(), seed)
    restarting = Restarting(start, recovery_interval_s=interval)
    client = await restarting.begin()
    dice = random.Random(seed)

    async def trouble() -> None:
        link = restarting.running.link
        link.flushing = dice.random() < 0.5
        link.holding = dice.random() < 0.3
        chance = dice.random()
        if chance < 0.2:
            link.kill()
            link.holding = False
            link.revive()
        elif chance < 0.3:
            await restarting.kill(client)
        elif not link.holding:
            link.flush()

    running = asyncio.create_task(script(client, seed, trouble))
    while not running.done():
        await asyncio.sleep(0.02)
        restarting.running.link.release()
    assert await running == expected
