"""Whatever the network does, the service executes what was called, in the order of the calls, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.data import batch
from tests.support.examples import examples
from tests.support.fakes.fake_service import FakeService, logprobs_of, loss_of
from tinsmith import AdamParams, ServiceClient, UserError
from tinsmith.client.training import batch_requests
from tinsmith.client.transport import embedding, retry

ADAM = AdamParams(learning_rate=1e-3)


class Weather:
    """A network that delays, loses requests before they arrive, and loses answers after they were made."""

    def __init__(self, seed: int, loss: float = 0.15) -> None:
        self.random = random.Random(seed)
        self.loss = loss

    async def __call__(self, stage: str, request: httpx.Request) -> None:
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.004]))
        if self.random.random() < self.loss:
            raise httpx.ReadError(f"lost the {stage}", request=request)


@pytest.mark.row(37)
@pytest.mark.usefixtures("quick")
@examples(15)
@given(
    seed=st.integers(0, 10_000),
    calls=st.lists(st.sampled_from(["data", "step", "save", "snapshot"]), min_size=1, max_size=12),
    parallel=st.booleans(),
    compress=st.booleans(),
)
def test_order_and_exactly_once(seed: int, calls: list[str], parallel: bool, compress: bool) -> None:
    fake = FakeService(seed, fwdbwd_max_chunk_len=3, parallel_fwdbwd_chunks=parallel, proto_compress_fwdbwd=compress)
    fake.network = Weather(seed)
    data = batch(8)

    async def start(_: object) -> FakeService:
        return fake

    patch = pytest.MonkeyPatch()
    patch.setattr(embedding, "_start", start)
    patch.setattr(retry, "_FIRST_DELAY_S", 0.001)
    if compress:
        patch.setattr(batch_requests, "_LARGE_BYTES", 0)
    client = ServiceClient()
    try:
        training = client.create_lora_training_client("tinsmith-tiny")
        futures = []
        for call in calls:
            if call == "data":
                futures.append(training.forward_backward(data, "cross_entropy"))
            elif call == "step":
                futures.append(training.optim_step(ADAM))
            elif call == "save":
                futures.append(training.save_state())
            else:
                futures.append(training.save_weights_and_get_sampling_client())
        results = [future.result() for future in futures]
        model = fake.models[training.model_id]
    finally:
        client.close("interrupted")
        patch.undo()

    kinds = {"data": ["forward_backward"] * 3, "step": ["optim_step"], "save": ["save_weights"]}
    expected = [kind for call in calls for kind in kinds.get(call, ["save_weights_for_sampler"])]
    assert [kind for _, kind, _ in model.log] == expected
    assert [seq for seq, _, _ in model.log] == list(range(1, len(expected) + 1))
    steps = 0
    for call, result in zip(calls, results, strict=True):
        steps += call == "step"
        if call == "data":
            assert [len(r["logprobs"].data) for r in result.loss_fn_outputs] == [d.model_input.length for d in data]
            for one, output in zip(data, result.loss_fn_outputs, strict=True):
                np.testing.assert_array_equal(output["logprobs"].to_numpy(), logprobs_of(one, steps))
            assert result.metrics["loss:sum"] == pytest.approx(sum(loss_of(d, steps) for d in data))
            assert result.metrics["length:mean"] == pytest.approx(np.mean([d.model_input.length for d in data]))
            assert result.metrics["length:max"] == 7


def test_chunks_arrive_in_any_order_and_never_block(fake: FakeService, service: ServiceClient) -> None:
    """The first chunk arrives last: the posts of the others are acknowledged meanwhile."""
    fake.config = {"fwdbwd_max_chunk_len": 1}
    arrived: list[str] = []
    others_are_there = asyncio.Event()

    async def first_last(stage: str, request: httpx.Request) -> None:
        if not request.url.path.endswith("forward_backward"):
            return
        arrived.append(stage)
        if arrived == ["request"]:
            await others_are_there.wait()
        elif arrived.count("response") == 2:
            others_are_there.set()

    fake.network = first_last
    training = service.create_lora_training_client("tinsmith-tiny")
    result = training.forward_backward(batch(3), "cross_entropy").result(10)
    assert len(result.loss_fn_outputs) == 3
    assert [seq for seq, _, _ in fake.models["s-0:train:0"].log] == [1, 2, 3]


@pytest.mark.row(51, 55)
def test_everything_is_submitted_without_waiting(fake: FakeService, service: ServiceClient) -> None:
    training = service.create_lora_training_client("tinsmith-tiny").result()
    fake.hold.clear()
    first = training.forward_backward(batch(2), "cross_entropy")
    step = training.optim_step(ADAM)
    saved = training.save_state("end")
    deadline = 200
    while len(fake.models[training.model_id].waiting) < 3 and deadline:
        deadline -= 1
        asyncio.run(asyncio.sleep(0.01))
    assert sorted(fake.models[training.model_id].waiting) == [1, 2, 3]
    assert [future.done() for future in (first, step, saved)] == [False, False, False]
    training._session.connection.submit(_set(fake.hold)).result()
    assert saved.result().path == f"tinker://{training.model_id}/weights/end"


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_a_call_is_carried_out_though_nobody_waits(fake: FakeService, service: ServiceClient) -> None:
    """Cancelling the waiting leaves no hole in the order."""
    training = service.create_lora_training_client("tinsmith-tiny")
    dropped = training.forward_backward(batch(2), "cross_entropy")
    dropped.cancel()
    training.optim_step(ADAM).result()
    assert [kind for _, kind, _ in fake.models[training.model_id].log] == ["forward_backward", "optim_step"]


@pytest.mark.usefixtures("quick")
def test_idempotency_key_stays_the_same_over_the_tries(fake: FakeService, service: ServiceClient) -> None:
    lost = {"optim_step": 3}

    async def lose(stage: str, request: httpx.Request) -> None:
        path = request.url.path.rpartition("/")[2]
        if stage == "response" and lost.get(path, 0) > 0:
            lost[path] -= 1
            raise httpx.ReadError("lost the answer", request=request)

    fake.network = lose
    training = service.create_lora_training_client("tinsmith-tiny")
    training.optim_step(ADAM).result()
    training.optim_step(ADAM).result()
    keys = [headers["x-idempotency-key"] for _, path, headers in fake.seen if path == "optim_step"]
    assert len(keys) == 5
    assert len(set(keys[:4])) == 1
    assert keys[4] != keys[0]
    assert fake.models[training.model_id].steps == 2


def test_a_refused_chunk_leaves_no_hole(fake: FakeService, service: ServiceClient) -> None:
    """A 4xx at the door uses its number up, with a batch that fails; the step after it takes nothing."""
    refused = iter([True])

    def refuse(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("forward_backward") and next(refused, False):
            return 413, b'{"detail": "body: too large"}', "application/json"
        return None

    fake.intercept = refuse
    training = service.create_lora_training_client("tinsmith-tiny")
    failed = training.forward_backward(batch(2), "cross_entropy")
    step = training.optim_step(ADAM)
    with pytest.raises(Exception, match="too large"):
        failed.result()
    with pytest.raises(Exception, match="forward_backward before this step failed"):
        step.result()
    assert training.forward_backward(batch(2), "cross_entropy").result().metrics["loss:sum"] > 0
    training.optim_step(ADAM).result()
    assert fake.models[training.model_id].steps == 1


def test_a_service_that_stays_away_ends_the_model(
    fake: FakeService, service: ServiceClient, monkeypatch: pytest.MonkeyPatch, quick: Callable[[], None]
) -> None:
    training = service.create_lora_training_client("tinsmith-tiny").result()
    monkeypatch.setattr(training._session.connection.settings, "client_retry_s", 0.05)

    async def away(stage: str, request: httpx.Request) -> None:
        raise httpx.ConnectError("refused", request=request)

    fake.network = away
    with pytest.raises(Exception, match="not reachable"):
        training.optim_step(ADAM).result()
    fake.network = None
    with pytest.raises(Exception, match=r"takes no more operations: .*not reachable"):
        training.optim_step(ADAM).result()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_refused_without_a_gap_in_the_order(fake: FakeService, rate: float) -> None:
    training = ServiceClient().create_lora_training_client("tinsmith-tiny")
    refused = training.optim_step(AdamParams.model_construct(learning_rate=rate))
    with pytest.raises(UserError, match=f"^adam_params.learning_rate: got {rate}, expected a finite number"):
        refused.result(timeout=20)
    training.forward_backward(batch(1), "cross_entropy").result(timeout=20)
