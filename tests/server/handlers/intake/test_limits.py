"""Limits of one key: who is refused is told what to do, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest
from sqlalchemy import func, select, update

from tests.server.client import Client, Failed, datum
from tests.server.conftest import Running, Start, soon
from tests.support.fakes.fake_link import FakeLink, tiny_info
from tinsmith.server.store.db.tables import CheckpointRow, OperationRow, RecordingRow
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.names.paths import CheckpointPath

pytestmark = pytest.mark.anyio


async def post_sample(client: Client, sampler: str, seq: int, **fields: object) -> httpx.Response:
    body = {
        "sampling_session_id": sampler,
        "seq_id": seq,
        "num_samples": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "sampling_params": {"max_tokens": 4},
    }
    return await client.http.post("/api/v1/asample", json=body | fields)


async def post_pass(client: Client, model: str, seq: int, tokens: int) -> httpx.Response:
    body = encode_forward_backward_request(model, seq, [datum(*[1] * tokens)], "cross_entropy")
    headers = {"Content-Type": "application/x-protobuf"}
    return await client.http.post("/api/v1/forward_backward", content=body, headers=headers)


def refusals(running: Running) -> dict[str, float]:
    """Return how many were refused by which limit, as the metrics show it."""
    [metric] = running.service.core.metrics.refused.collect()
    return {s.labels["limit"]: s.value for s in metric.samples if s.name == "tinsmith_refused_total"}


# -- tokens in flight -------------------------------------------------------------------------------------------------


async def test_samples_over_the_tokens_in_flight_are_asked_to_wait(start: Start) -> None:
    running = await start(max_tokens_in_flight_per_key=20)
    client, other = await running.client(), await running.client("other")
    sampler, theirs = await client.sampler(base_model="tiny"), await other.sampler(base_model="tiny")
    running.link.holding = True
    first = await post_sample(client, sampler, 0, num_samples=3)  # 2 + 3 * 4
    refused = await post_sample(client, sampler, 1, num_samples=2)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["detail"] == (
        "tokens: got 10 more on top of 14 in samples of yours that have no result yet, expected at most 20 in flight "
        "for one key (TINSMITH_MAX_TOKENS_IN_FLIGHT_PER_KEY); wait for results before you send more"
    )
    assert refusals(running) == {"max_tokens_in_flight_per_key": 1}
    assert (await post_sample(client, sampler, 2)).status_code == 200  # 6 fit
    assert (await post_sample(other, theirs, 0, num_samples=4)).status_code == 200
    running.link.release()
    await client.result(first.json())
    assert (await post_sample(client, sampler, 1, num_samples=2)).status_code == 200


async def test_what_is_too_large_by_itself_is_let_in_alone(start: Start) -> None:
    running = await start(max_tokens_in_flight_per_key=5)
    client = await running.client()
    model, sampler = await client.create_model(), await client.sampler(base_model="tiny")
    running.link.holding = True
    # Without `max_tokens`, all that the context has room for may be drawn.
    assert (await post_sample(client, sampler, 0, sampling_params={})).status_code == 200
    # Samples do not keep a training step out.
    assert (await post_pass(client, model, 1, 30)).status_code == 200
    assert (await post_pass(client, model, 2, 1)).status_code == 429
    usage = running.service.core.futures.usage
    assert (usage.pass_tokens["local"], usage.sample_tokens["local"]) == (30, tiny_info().context_length)


async def test_a_pass_that_others_wait_for_is_let_in(start: Start) -> None:
    running = await start(max_tokens_in_flight_per_key=5)
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    assert (await post_pass(client, model, 2, 5)).status_code == 200  # overtook the first one
    assert (await post_pass(client, model, 3, 5)).status_code == 429
    first = await post_pass(client, model, 1, 5)
    assert first.status_code == 200
    running.link.release()
    await client.result(first.json())
    await soon(lambda: not running.service.core.futures.usage.pass_tokens)


async def test_tokens_in_flight_are_counted_anew_after_a_restart(start: Start) -> None:
    running = await start(max_tokens_in_flight_per_key=20)
    key = await running.service.keys.create("local", "test")
    client = Client(running.http(key))
    await client.open()
    model, sampler = await client.create_model(), await client.sampler(base_model="tiny")
    running.link.holding = True
    assert (await post_pass(client, model, 1, 7)).status_code == 200
    assert (await post_sample(client, sampler, 0)).status_code == 200
    await running.crash()
    link = FakeLink()
    link.holding = True
    again = await start(link, max_tokens_in_flight_per_key=20)
    usage = again.service.core.futures.usage
    assert (usage.pass_tokens, usage.sample_tokens) == (Counter(local=7), Counter(local=6))


# -- runs and stored bytes --------------------------------------------------------------------------------------------


async def test_many_runs_at_once_do_not_slip_past_the_limit(start: Start) -> None:
    running = await start(max_models_per_key=2)
    client = await running.client()
    made = await asyncio.gather(*(client.create_model() for _ in range(5)), return_exceptions=True)
    failed = [error for error in made if isinstance(error, Failed)]
    assert len(failed) == 3
    assert failed[0].message.startswith("model_seq_id: got 'one more training run than the 2 that you have'")
    assert "TINSMITH_MAX_MODELS_PER_KEY" in failed[0].message
    assert failed[0].category == "user"
    assert refusals(running) == {"max_models_per_key": 3}


def large_link() -> FakeLink:
    # Rank 4: a state is expected to take 4 * 4 * 3 * 10_700 bytes and a little, not quite half a MiB.
    return FakeLink([tiny_info().model_copy(update={"lora_parameters": {"attn": 10_700}})])


async def test_a_save_over_the_stored_bytes_fails_with_what_to_delete(start: Start) -> None:
    running = await start(large_link(), max_stored_mb_per_key=1)
    client, other = await running.client(), await running.client("other")
    model = await client.create_model()
    running.link.holding = True
    # Announced sizes count until the saves are done: three at once are not all let in.
    saves = [client.save_state(model, name) for name in "abc"]
    begun = asyncio.gather(*saves, return_exceptions=True)
    await soon(lambda: running.service.core.futures.usage.saving["local"] > 10**6)
    running.link.release()
    refused = [error for error in await begun if isinstance(error, Failed)]
    assert len(refused) == 1
    assert refusals(running) == {"max_stored_mb_per_key": 1}
    assert refused[0].category == "user"
    assert "expected at most 1 MiB for one key (TINSMITH_MAX_STORED_MB_PER_KEY)" in refused[0].message
    assert "0.5 MiB" in refused[0].message
    assert "`tinsmith checkpoint delete`" in refused[0].message
    assert not running.service.core.futures.usage.saving
    await other.save_state(await other.create_model(), "mine")


async def test_deleting_a_checkpoint_makes_room_and_overwriting_needs_none(start: Start) -> None:
    running = await start(large_link(), max_stored_mb_per_key=1)
    client = await running.client()
    model = await client.create_model()
    for name in "ab":
        await client.save_state(model, name)
    # The files of this engine are tiny.
    core = running.service.core
    statement = update(CheckpointRow).values(size_bytes=500_000)
    await core.db.write(lambda connection: connection.execute(statement))
    with pytest.raises(Failed, match=r"1\.0 MiB of checkpoints\)"):
        await client.save_state(model, "c")
    await client.save_state(model, "a", overwrite=True)
    await core.checkpoints.delete(CheckpointPath(model, "weights", "b"), "local")
    await client.save_state(model, "c")


async def test_recorded_samples_count_as_stored(start: Start) -> None:
    running = await start(large_link(), max_stored_mb_per_key=1)
    client = await running.client()
    model, sampler = await client.create_model(), await client.sampler(base_model="tiny")
    await client.sample(sampler, record_stability_info=True)
    statement = update(RecordingRow).values(size_bytes=2**20)
    await running.service.core.db.write(lambda connection: connection.execute(statement))
    with pytest.raises(Failed, match=r"1\.0 MiB of recorded samples"):
        await client.save_sampler(model, "c")


# -- open requests ----------------------------------------------------------------------------------------------------


async def test_a_key_holds_so_many_requests_open_and_no_more(start: Start) -> None:
    running = await start(max_open_requests_per_key=2)
    client, other = await running.client(), await running.client("other")
    sampler, theirs = await client.sampler(base_model="tiny"), await other.sampler(base_model="tiny")
    running.link.holding = True
    promises = [await client.post_sample(sampler, seq) for seq in range(3)]
    polls = [asyncio.ensure_future(client.poll(promise["request_id"])) for promise in promises[:2]]
    open_requests = running.app.state.open_requests.open
    await soon(lambda: sum(open_requests.values()) == 2)
    refused = await client.poll(promises[2]["request_id"])
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert "TINSMITH_MAX_OPEN_REQUESTS_PER_KEY" in refused.json()["detail"]
    page = (await running.http(None).get("/metrics")).text
    assert 'tinsmith_refused_total{limit="max_open_requests_per_key"} 1.0' in page
    await client.post("session_heartbeat", {"session_id": client.session_id})
    assert (await post_sample(other, theirs, 0)).status_code == 200
    running.link.release()
    assert [answer.status_code for answer in await asyncio.gather(*polls)] == [200, 200]
    await client.result(promises[2])
    assert not open_requests


# -- kept refusals ----------------------------------------------------------------------------------------------------


def kept(running: Running) -> tuple[int, int]:
    """Return how many operations are in memory and in the journal."""
    core = running.service.core
    rows = core.db.read(lambda c: c.execute(select(func.count()).select_from(OperationRow)).scalar_one())
    return len(list(core.futures.records())), rows


async def test_a_flood_of_refused_samples_leaves_so_many_and_no_more(start: Start) -> None:
    running = await start(max_refusals_per_key=5)
    client, other = await running.client(), await running.client("other")
    sampler, theirs = await client.sampler(base_model="tiny"), await other.sampler(base_model="tiny")
    bad = {"sampling_params": {"top_p": 1.7}}
    answers = [await post_sample(client, sampler, seq, **bad) for seq in range(40)]
    # Samples of nobody, and models that cannot be made, are of the same kind.
    answers += [await post_sample(client, "nobody", seq) for seq in range(40)]
    creation = {"session_id": client.session_id, "base_model": "none", "lora_config": {"rank": 4}}
    for number in range(40):
        answers.append(await client.http.post("/api/v1/create_model", json=creation | {"model_seq_id": number}))
    assert kept(running) == (5, 5)
    assert [answer.status_code for answer in answers] == [200] * 5 + [400] * 115
    for answer in answers[:5]:
        with pytest.raises(Failed, match=r"top_p: got 1\.7"):
            await client.result(answer.json())
    assert "sampling_params.top_p: got 1.7, expected 0 < top_p <= 1" in answers[5].json()["detail"]
    # What is sound is accepted, and others' refusals are kept as before.
    assert (await post_sample(client, sampler, 90)).status_code == 200
    assert (await post_sample(other, theirs, 0, **bad)).status_code == 200


async def test_a_flood_of_refused_passes_is_held_back_and_none_is_lost(start: Start) -> None:
    running = await start(max_refusals_per_key=3)
    client = await running.client()
    model = await client.create_model()
    before = kept(running)
    for seq in range(1, 4):
        promise = (await post_pass(client, model, seq, 100)).json()
        with pytest.raises(Failed, match="100"):
            await client.result(promise)
    refused = [await post_pass(client, model, 4, 100) for _ in range(20)]
    assert {answer.status_code for answer in refused} == {429}
    assert refusals(running) == {"max_refusals_per_key": 20}
    assert "TINSMITH_MAX_REFUSALS_PER_KEY" in refused[0].json()["detail"]
    assert "tokens" in refused[0].json()["detail"]  # the fault itself, too
    assert kept(running) == (before[0] + 3, before[1] + 3)
    # Its place in the order is free: a sound request takes it.
    assert (await post_pass(client, model, 4, 2)).status_code == 200


async def test_fetched_refusals_are_soon_forgotten(start: Start) -> None:
    running = await start(max_refusals_per_key=2, result_retention_s=0.01, session_timeout_s=100.0)
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    for seq in range(6):
        with pytest.raises(Failed, match="top_p"):
            await client.sample(sampler, seq, params={"top_p": 1.7})
        await asyncio.sleep(0.02)
        await running.service.sweeper.sweep()
    assert kept(running) == (0, 0)
    assert not running.service.core.futures.usage.refusals
