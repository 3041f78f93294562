"""Sampling sessions, samples, back-pressure."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Running, Start, soon
from tests.support.fakes.fake_link import FakeLink
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory

pytestmark = pytest.mark.anyio


async def test_snapshots_see_exactly_the_weights_of_their_place(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    first = await client.snapshot(model)
    assert first == f"{client.session_id}:sample:0"
    await client.forward_backward(model, 9)
    await client.optim_step(model)
    second = await client.snapshot(model)
    logprobs = [(await client.sample(s)).sequences[0].logprobs for s in (first, second, first)]
    assert logprobs[0] == logprobs[2] != logprobs[1]


async def test_sampling_from_saved_weights_and_from_a_base(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    path = await client.save_sampler(model, "final")
    saved, base = await client.sampler(model_path=path), await client.sampler(base_model="tiny")
    assert await client.get(f"samplers/{saved}") == {"sampler_id": saved, "base_model": "tiny", "model_path": path}
    assert await client.get(f"samplers/{base}") == {"sampler_id": base, "base_model": "tiny"}
    assert (await client.sample(saved)).sequences[0].logprobs != (await client.sample(base)).sequences[0].logprobs


async def test_a_repeated_sampling_session_is_the_same_and_another_is_refused(running: Running) -> None:
    client = await running.client()
    body = {"session_id": client.session_id, "sampling_session_seq_id": 3, "base_model": "tiny"}
    answers = await asyncio.gather(*(client.post("create_sampling_session", body) for _ in range(4)))
    assert {a["sampling_session_id"] for a in answers} == {f"{client.session_id}:sample:3"}
    await soon(lambda: [op.kind for op in running.link.submitted] == [OpKind.LOAD_SAMPLER])
    model = await client.create_model()
    snapshot = {"model_id": model, "seq_id": 1, "sampling_session_seq_id": 3}
    with pytest.raises(Failed, match="sampling_session_seq_id"):
        await client.result(await client.post("save_weights_for_sampler", snapshot))


async def test_a_repeated_sample_is_the_same_request(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    first = await client.post_sample(sampler, 1_000_000_000 * 1_000_000_000, num_samples=3)
    again = await client.post_sample(sampler, 1_000_000_000 * 1_000_000_000, num_samples=3)
    assert first == again
    assert len(set(first["sample_sequence_ids"])) == 3
    assert len((await client.result(first)).sequences) == 3
    other = await client.post_sample(sampler, 1_000_000_000 * 1_000_000_000, num_samples=2)
    assert len(other["sample_sequence_ids"]) == 2
    with pytest.raises(Failed, match="seq_id"):
        await client.result(other)


async def test_a_seed_repeats_a_sample_and_samples_without_one_differ(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    samples = [await client.sample(sampler, seq) for seq in range(2)]
    assert samples[0].sequences[0].tokens != samples[1].sequences[0].tokens
    fixed = [await client.sample(sampler, seq, params={"seed": 7}) for seq in (5, 6)]
    assert fixed[0].sequences[0].tokens == fixed[1].sequences[0].tokens


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": {"chunks": []}}, "prompt: got '0 tokens'"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [100]}]}}, r"prompt\[0\]: got 100"),
        (
            {"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}},
            "got 'image', expected encoded_text",
        ),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1] * 64}]}}, "expected at most 63"),
        ({"params": {"top_p": 1.7}}, "sampling_params.top_p: got 1.7, expected 0 < top_p <= 1"),
        ({"params": {"seed": 2**65}}, "sampling_params.seed"),
        ({"params": {"temperature": "hot"}}, "sampling_params.temperature: got 'hot'"),
        ({"params": {"top_k": 2**70}}, "sampling_params.top_k: got 1180591620717411303424"),
        ({"params": {"max_tokens": 2**70}}, "sampling_params.max_tokens: got 1180591620717411303424"),
        (
            {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2**70]}]}},
            "prompt: got 1180591620717411303424",
        ),
        ({"prompt": {"chunks": [{"type": "encoded_text"}]}}, r"prompt.chunks\[0\].tokens: got None, expected a list"),
        ({"target_prompt_logprobs": {"data": [[1], [1, 2]], "dtype": "int64"}}, "tensor: got parts that are no arrays"),
        ({"target_prompt_logprobs": {"data": [1, 2], "dtype": "int64", "shape": "x"}}, "tensor: got parts"),
        (
            {"params": {"stop": ["a", 1]}},
            r"sampling_params.stop: got \['a', 1\], expected strings or token ids, not both",
        ),
        ({"num_samples": 0}, "num_samples: got 0"),
        ({"num_samples": 10_000}, "num_samples: got 10000, expected 1 to 1024"),
        ({"topk_prompt_logprobs": 65}, "topk_prompt_logprobs: got 65, expected 0 to 64"),
        ({"prompt_logprobs_last_n": 3, "prompt_logprobs": True}, "prompt_logprobs_last_n: got 3, expected 1 to 2"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs"),
        ({"record_stability_info": "perhaps"}, "record_stability_info: got 'perhaps'"),
        ({"target_prompt_logprobs": {"data": [1, 2, 3], "dtype": "int64", "shape": [3, 1]}}, r"expected \[2, K\]"),
        ({"target_prompt_logprobs": {"data": [1, 100], "dtype": "int64", "shape": [2, 1]}}, "got 100"),
        ({"target_prompt_logprobs": {"data": [1.0, 1.0], "dtype": "float32", "shape": [2, 1]}}, "int64"),
        ({"sampling_session_id": "nobody:sample:0"}, "sampling_session_id: got 'nobody:sample:0'"),
        ({"seq_id": -1}, "seq_id: got -1"),
    ],
)
async def test_faults_of_a_sample_fail_its_future(running: Running, fields: dict, message: str) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    options = {"sampler": sampler} | fields
    options["sampler"] = options.pop("sampling_session_id", sampler)
    with pytest.raises(Failed, match=message) as failed:
        await client.sample(**options)
    assert failed.value.category == "user"


async def test_sampling_sessions_that_cannot_be_made(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    model = await client.create_model()
    state, weights = await client.save_state(model, "a"), await client.save_sampler(model, "b")

    async def refused(who: object = client, status: int = 400, **fields: object) -> str:
        body = {"session_id": who.session_id, "sampling_session_seq_id": 50} | fields  # pyright: ignore
        return (await who.post("create_sampling_session", body, status))["detail"]  # pyright: ignore

    assert "base_model: got 'huge'" in await refused(base_model="huge")
    assert "sampler_weights" in await refused(model_path=state)
    assert "model_path" in await refused(model_path="somewhere")
    assert "model_path" in await refused()
    assert await refused(model_path=f"{weights}x", status=404)
    assert await refused(other, model_path=weights, status=404)
    assert await refused(other, session_id=client.session_id, base_model="tiny", status=404)
    assert "base_model" in await refused(model_path=weights, base_model="other")
    assert await refused(base_model="tiny", sampling_session_seq_id="x", status=422)


async def test_a_full_queue_asks_to_slow_down_and_forgets_nothing(start: Start) -> None:
    running = await start(max_queued_samples=3)
    client = await running.client()
    sampler, model = await client.sampler(base_model="tiny"), await client.create_model()
    running.link.holding = True
    promises = [await client.post_sample(sampler, seq) for seq in range(3)]
    body = {
        "sampling_session_id": sampler,
        "seq_id": 3,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
    }
    answer = await client.http.post("/api/v1/asample", json=body)
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    page = (await running.http().get("/metrics")).text
    assert 'tinsmith_refused_total{limit="max_queued_samples"} 1.0' in page
    assert await client.post_sample(sampler, 2) == promises[2]
    assert await client.post_pass(model, 1)  # training is never turned away
    running.link.release()
    for promise in promises:
        await client.result(promise)
    assert await client.result(await client.post("asample", body) | {"sample_sequence_ids": []})


async def test_who_has_nothing_queued_is_not_refused_for_what_another_has(start: Start) -> None:
    running = await start(max_queued_samples=4)
    flood, small = await running.client(), await running.client("other")
    many, few = await flood.sampler(base_model="tiny"), await small.sampler(base_model="tiny")
    running.link.holding = True
    promises = [(flood, await flood.post_sample(many, seq)) for seq in range(4)]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1]}]}
    kept = len(list(running.service.core.futures.records()))

    async def refused(client: Client, sampler: str) -> str:
        body = {"sampling_session_id": sampler, "seq_id": 9, "prompt": prompt}
        answer = await client.http.post("/api/v1/asample", json=body)
        assert answer.status_code == 429
        return answer.text

    assert "4 of your sampling requests are waiting, of 4" in await refused(flood, many)
    assert len(list(running.service.core.futures.records())) == kept  # a refusal leaves nothing
    # Half of the queue is an even share of two.
    promises += [(small, await small.post_sample(few, seq)) for seq in range(2)]
    await refused(small, few)
    running.link.release()
    for client, promise in promises:
        await client.result(promise)


async def test_weights_that_do_not_load_fail_the_samples_and_are_tried_again(running: Running) -> None:
    client = await running.client()
    running.link.fail = {OpKind.LOAD_SAMPLER: ("adapter memory is full", RequestErrorCategory.SERVER)}
    sampler = await client.sampler(base_model="tiny")
    with pytest.raises(Failed, match="adapter memory is full") as failed:
        await client.sample(sampler)
    assert failed.value.category == "server"
    running.link.fail = {}
    assert await client.sample(sampler, 1)


async def test_idle_samplers_leave_the_engine_and_come_back(start: Start) -> None:
    running = await start(sampler_rest_s=1e-9)
    client = await running.client()
    sampler = await client.snapshot(await client.create_model())
    before = await client.sample(sampler, 0, params={"seed": 1})
    await running.service.sweeper.sweep()
    await soon(lambda: not running.link.samplers)
    after = await client.sample(sampler, 1, params={"seed": 1})
    assert after.sequences[0].tokens == before.sequences[0].tokens


async def test_the_idlest_of_too_many_samplers_leave_first_and_busy_ones_stay(start: Start) -> None:
    running = await start(max_resident_samplers=3)
    client = await running.client()
    model = await client.create_model()
    samplers = [await client.snapshot(model) for _ in range(3)]
    await client.sample(samplers[0])
    running.link.holding = True
    waiting = await client.post_sample(samplers[1])
    running.link._queue.clear()  # that sample never ends
    running.link.release()
    samplers += [await client.snapshot(model) for _ in range(2)]
    await soon(lambda: len(running.link.samplers) == 3)
    assert samplers[1] in running.link.samplers
    assert samplers[2] not in running.link.samplers
    assert await client.sample(samplers[2])
    assert waiting


async def test_inflight_weights_are_refused_by_name(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    body = {"model_id": model, "seq_id": 1, "sampling_session_seq_id": 0, "kind": "inflight"}
    with pytest.raises(Failed, match="kind: got 'inflight'"):
        await client.result(await client.post("save_weights_for_sampler", body))
    assert await client.result(await client.post_pass(model, 1, seq_id=2))


async def test_two_base_models(start: Start, two_models: FakeLink) -> None:
    running = await start(two_models)
    client = await running.client()
    model = await client.create_model("other/tiny")
    info = await client.post("get_info", {"model_id": model})
    assert info["model_data"]["model_name"] == info["model_name"] == "other/tiny"
    assert info["model_data"]["hidden_size"] == 8
    assert info["lora_rank"] == 4
    capabilities = await client.get("get_server_capabilities")
    assert [m["model_name"] for m in capabilities["supported_models"]] == ["other/tiny", "tiny"]
    assert "cross_entropy" in capabilities["losses"]
    state = await client.save_state(model, "a")
    # The same shape may be another base; whether its weights are the same is the engine's to say.
    assert await client.load(state, base_model="tiny")


async def test_every_sample_has_an_id_however_the_number_was_written(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    promised = await client.post_sample(sampler, num_samples="2")
    assert len(promised["sample_sequence_ids"]) == len((await client.result(promised)).sequences) == 2


@pytest.mark.row(210)
async def test_a_snapshot_that_is_asked_for_again_under_another_number_is_the_same(running: Running) -> None:
    # So does the official SDK when an answer was lost: the place in the order is the same, the session's number is not.
    client = await running.client()
    model = await client.create_model()
    body = {"model_id": model, "seq_id": client.seq(model), "sampling_session_seq_id": 7}
    first = await client.post("save_weights_for_sampler", body)
    again = await client.post("save_weights_for_sampler", body | {"sampling_session_seq_id": 8})
    assert again["request_id"] == first["request_id"]
    answer = await client.result(again)
    assert answer["sampling_session_id"].endswith(":sample:7")
    # What is no snapshot, or one of another life span, is another request.
    with pytest.raises(Failed, match="other contents"):
        await client.result(await client.post("save_weights_for_sampler", body | {"path": "named"}))
    # The number that was not used is free.
    await client.result(
        await client.post(
            "save_weights_for_sampler", body | {"seq_id": client.seq(model), "sampling_session_seq_id": 8}
        )
    )
