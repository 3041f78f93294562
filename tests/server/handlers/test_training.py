"""Training over the wire: order, exactly-once, and faults that become failed futures."""

from __future__ import annotations

import asyncio
import random

import pytest
import zstandard

from tests.server.client import ADAM, PROTOBUF, Client, Failed, datum
from tests.server.conftest import Running, Start, soon
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.engine_messages.operations import CreateModel, OpKind

pytestmark = pytest.mark.anyio


async def test_a_step_from_create_to_result(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    assert model == f"{client.session_id}:train:0"
    before = await client.forward_backward(model, 1, 2, 3, forward_only=True)
    output = await client.forward_backward(model, 1, 2, 3)
    assert output.metrics == before.metrics
    assert output.loss_fn_outputs[0]["logprobs"].shape == [3]
    metrics = await client.optim_step(model)
    # The fake engine: gradient = 0.01 * sum of targets + 0.1 * weight, of the one pass that was no forward pass.
    assert metrics["weight"] == pytest.approx(4 - 0.1 * (0.06 + 0.4))


async def test_chunks_that_arrive_out_of_order_run_in_order(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    promises = {seq: await client.post_pass(model, seq, seq_id=seq) for seq in (2, 3, 5, 4)}
    step = await client.post_step(model, seq_id=6)
    await asyncio.sleep(0.05)
    assert [kind for kind, _ in running.link.ran] == [OpKind.CREATE_MODEL]
    promises[1] = await client.post_pass(model, 1, seq_id=1)
    await client.result(step)
    assert [seq for kind, seq in running.link.ran if kind is not OpKind.CREATE_MODEL] == [1, 2, 3, 4, 5, 6]
    for promise in promises.values():
        assert (await client.result(promise)).metrics


async def test_a_repeated_post_returns_the_first_future_and_runs_once(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    first = await client.post_pass(model, 1, 2, seq_id=1)
    again = await asyncio.gather(*(client.post_pass(model, 1, 2, seq_id=1) for _ in range(5)))
    assert {promise["request_id"] for promise in again} == {first["request_id"]}
    running.link.release()
    result = await client.result(first)
    later = await client.post_pass(model, 1, 2, seq_id=1)
    assert (await client.result(later)).metrics == result.metrics
    assert running.link.ran.count((OpKind.FORWARD_BACKWARD, 1)) == 1


async def test_simultaneous_first_posts_make_one_operation(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    promises = await asyncio.gather(*(client.post_pass(model, *range(60), seq_id=1) for _ in range(8)))
    assert len({promise["request_id"] for promise in promises}) == 1
    assert running.link.ran.count((OpKind.FORWARD_BACKWARD, 1)) == 1


async def test_another_payload_at_the_same_place_fails_alone(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    first = await client.post_pass(model, 1, 2, seq_id=1)
    other = await client.post_pass(model, 9, 9, seq_id=1)
    assert other["request_id"] != first["request_id"]
    with pytest.raises(Failed, match="seq_id") as failed:
        await client.result(other)
    assert failed.value.category == "user"
    running.link.release()
    assert (await client.result(first)).metrics["loss:sum"] == pytest.approx(4 * 3)
    assert await client.optim_step_at(model, 2)


async def test_map_order_on_the_wire_does_not_make_another_payload(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    one, two = datum(1, 2), datum(1, 2)
    two.loss_fn_inputs["weights"] = two.loss_fn_inputs.pop("weights")
    two.loss_fn_inputs["target_tokens"] = two.loss_fn_inputs.pop("target_tokens")
    bodies = [encode_forward_backward_request(model, 1, [d], "cross_entropy") for d in (one, two)]
    promises = [await client.post("forward_backward", body) for body in bodies]
    assert promises[0]["request_id"] == promises[1]["request_id"]


@pytest.mark.parametrize("order", range(6))
async def test_any_arrival_order_gives_the_weights_of_the_calm_order(running: Running, order: int) -> None:
    client = await running.client()
    calm, shuffled = await client.create_model(), await client.create_model()
    posts = [(seq, seq % 4 == 0) for seq in range(1, 17)]

    async def post(model: str, seq: int, step: bool) -> dict:
        return await (client.post_step(model, seq) if step else client.post_pass(model, seq, seq + 1, seq_id=seq))

    for seq, step in posts:
        last = await post(calm, seq, step)
    expected = await client.result(last)
    mixed = random.Random(order).sample(posts + posts, 2 * len(posts))
    promises = dict(
        zip([seq for seq, _ in mixed], await asyncio.gather(*(post(shuffled, *p) for p in mixed)), strict=True)
    )
    assert await client.result(promises[16]) == expected


# -- faults -----------------------------------------------------------------------------------------------------------


async def fails(client: Client, promise: dict, message: str) -> None:
    with pytest.raises(Failed, match=message) as failed:
        await client.result(promise)
    assert failed.value.category == "user"


@pytest.mark.row(36, 203)
async def test_faults_of_a_request_fail_its_future_and_nothing_else(running: Running) -> None:
    client = await running.client()
    model, neighbour = await client.create_model(), await client.create_model()
    await client.forward_backward(neighbour, 5)
    await fails(client, await client.post_pass(model, 1, loss_fn="cross_entropie"), "loss_fn: got 'cross_entropie'")
    await fails(client, await client.post_pass(model, 1, loss_fn_config={"beta": 1.0}), r"loss_fn_config\['beta'\]")
    await fails(client, await client.post_pass(model, 1, 100), r"model_input\[1\]: got 100, expected a token id")
    await fails(client, await client.post_pass(model, *([1] * 65)), "context length 64")
    await fails(client, await client.post_step(model, beta1=1.5), "adam_params.beta1: got 1.5")
    await fails(client, await client.post_step(model, surprise=1), "adam_params.surprise")
    # The failed passes fail the step that follows; the refused steps did not end it.
    await fails(client, await client.post_step(model), "failed")
    await client.forward_backward(model, 1, 2)
    assert (await client.optim_step(model))["steps"] == 1
    assert (await client.optim_step(neighbour))["weight"] == pytest.approx(4 - 0.1 * (0.05 + 0.4))


async def test_a_rejected_pass_does_not_hold_up_what_follows_it(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    step = await client.post_step(model, seq_id=2)
    await client.post_pass(model, 1, seq_id=1, loss_fn="nothing")
    await fails(client, step, "failed")
    await client.result(await client.post_step(model, seq_id=3))


async def test_requests_that_cannot_be_placed_fail_too(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await fails(client, await client.post_pass("nobody:train:0", 1, seq_id=1), "model_id: got 'nobody:train:0'")
    await fails(client, await client.post_pass(model, 1, seq_id=0), "seq_id: got 0")
    await fails(client, await client.post("optim_step", {"model_id": model, "adam_params": ADAM}), "seq_id: got None")
    await fails(client, await client.post("optim_step", {"model_id": 7, "seq_id": 1}), "model_id: got 7")
    for number in ("1", True, -1, 2**80):
        await fails(client, await client.post("optim_step", {"model_id": model, "seq_id": number}), "seq_id")


async def test_models_that_cannot_be_made(running: Running) -> None:
    client = await running.client()

    async def create(**fields: object) -> dict:
        body = {"session_id": client.session_id, "model_seq_id": next(client.models), "base_model": "tiny"}
        return await client.post("create_model", body | {"lora_config": {"rank": 4}} | fields)

    await fails(client, await create(base_model="huge"), "base_model: got 'huge', expected one of tiny")
    await fails(client, await create(lora_config={"rank": 999}), "lora_config.rank: got 999, expected 1 to 256")
    await fails(client, await create(lora_config={"rank": 4, "seed": 2**70}), "lora_config.seed")
    await fails(client, await create(optimizer_config={"type": "dimuon", "version": 1}), "optimizer_config.type")
    await fails(client, await create(session_id="nobody"), "session_id: got 'nobody'")
    await fails(client, await create(model_seq_id=-1), "model_seq_id: got -1")
    nothing = {"rank": 4, "train_attn": False, "train_mlp": False, "train_unembed": False}
    await fails(client, await create(lora_config=nothing), "lora_config")


async def test_creation_is_idempotent(running: Running) -> None:
    client = await running.client()
    body = {"session_id": client.session_id, "model_seq_id": 4, "base_model": "tiny", "lora_config": {"rank": 4}}
    promises = await asyncio.gather(*(client.post("create_model", body) for _ in range(4)))
    assert len({p["request_id"] for p in promises}) == 1
    assert (await client.result(promises[0]))["model_id"] == f"{client.session_id}:train:4"
    created = [op.work for op in running.link.submitted if isinstance(op.work, CreateModel)]
    assert len(created) == 1
    await fails(client, await client.post("create_model", body | {"base_model": "other"}), "model_seq_id")


async def test_an_engine_fault_is_the_services_own(running: Running) -> None:
    from tinsmith.types.errors import RequestErrorCategory

    client = await running.client()
    model = await client.create_model()
    running.link.fail = {OpKind.FORWARD_BACKWARD: ("out of memory", RequestErrorCategory.SERVER)}
    with pytest.raises(Failed, match="out of memory") as failed:
        await client.forward_backward(model, 1)
    assert failed.value.category == "server"


async def test_the_number_of_models_of_a_key_is_limited(start: Start) -> None:
    running = await start(max_models_per_key=2)
    client = await running.client()
    for _ in range(2):
        await client.create_model()
    with pytest.raises(Failed, match="at most 2"):
        await client.create_model()
    other = await running.client("other")
    assert await other.create_model()


# -- bodies -----------------------------------------------------------------------------------------------------------


async def test_encodings_and_limits_of_bodies(start: Start) -> None:
    import gzip

    running = await start(max_upload_mb=1)
    client = await running.client()
    model = await client.create_model()
    body = encode_forward_backward_request(model, 1, [datum(1, 2)], "cross_entropy")
    squeezed = zstandard.compress(body)
    first = await client.post("forward_backward", body)
    zstd = await client.post("forward_backward", squeezed, **{"Content-Encoding": "zstd"})
    gzipped = await client.post("forward_backward", gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert first == zstd == gzipped

    async def refused(content: bytes, status: int, **headers: str) -> str:
        answer = await client.post("forward_backward", content, status, **headers)
        return answer["detail"]

    bomb = zstandard.compress(bytes(64 << 20))
    assert "at most 1048576 bytes" in await refused(bomb, 413, **{"Content-Encoding": "zstd"})
    assert "at most" in await refused(gzip.compress(bytes(64 << 20)), 413, **{"Content-Encoding": "gzip"})
    assert "at most" in await refused(bytes(2 << 20), 413)
    assert "truncated" in await refused(squeezed[:-3], 400, **{"Content-Encoding": "zstd"})
    assert "gzip" in await refused(b"nothing", 400, **{"Content-Encoding": "gzip"})
    assert "zstd" in await refused(body, 415, **{"Content-Encoding": "br"})
    assert "protobuf" in await refused(b"\xff\xffnothing", 400)
    assert "protobuf" in await refused(body, 415, **{"Content-Type": "application/json"})
    answer = await client.http.post("/api/v1/optim_step", content=b"{not json", headers={"Content-Type": PROTOBUF})
    assert answer.status_code == 400
    assert "body" in answer.json()["detail"]


async def test_large_bodies_and_results_go_through_files(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    data = [datum(*range(60)) for _ in range(400)]
    body = encode_forward_backward_request(model, 1, data, "cross_entropy")
    assert len(body) > 200_000
    promise = await client.post("forward_backward", body)
    output = await client.result(promise)
    assert len(output.loss_fn_outputs) == 400
    assert running.link.submitted[-1].body_path is not None
    again = await client.result(promise)
    assert again.loss_fn_outputs[399] == output.loss_fn_outputs[399]


async def test_the_journal_is_written_before_a_post_is_acknowledged(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    running.link.holding = True
    promise = await client.post_pass(model, 1, 2)
    stored = {record.request_id: record for record in running.service.core.journal.load()}  # pyright: ignore
    assert stored[promise["request_id"]].seq_id == 1
    running.link.release()
    await client.result(promise)
    await soon(lambda: running.service.core.futures.find(promise["request_id"]).settled.is_set())  # pyright: ignore
