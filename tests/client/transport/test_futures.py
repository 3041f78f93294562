"""Futures: every way of waiting gives the same result, and none of them gets stuck."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import subprocess
import sys
import time

import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import ServiceClient, TrainingClient
from tinsmith.client.transport.futures import Pending
from tinsmith.client.transport.loop import background


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith-tiny")


@pytest.mark.row(51, 52, 53, 54, 56)
def test_all_ways_of_waiting(training: TrainingClient) -> None:
    future = training.forward_backward(batch(3), "cross_entropy")
    expected = future.result()
    assert future.done()
    assert future.exception() is None
    assert concurrent.futures.wait([future.future()]).not_done == set()

    async def script() -> list[object]:
        once = await training.forward_backward_async(batch(3), "cross_entropy")
        twice = await (await training.forward_backward_async(batch(3), "cross_entropy"))
        task = asyncio.create_task(training.forward_backward(batch(3), "cross_entropy").coroutine())
        return [await once, await once, twice, await once.result_async(), await task, once.result()]

    for result in asyncio.run(script()):
        assert result == expected


@pytest.mark.row(30)
def test_clients_are_futures_of_themselves(service: ServiceClient) -> None:
    async def script() -> None:
        training = service.create_lora_training_client("tinsmith-tiny", rank=8)
        assert (await training) is training
        assert training.result() is training
        assert (await service.create_lora_training_client_async("tinsmith-tiny")).get_info().lora_rank == 32
        sampling = await training.save_weights_and_get_sampling_client_async()
        assert (await sampling) is sampling is sampling.result()
        assert (await service.create_sampling_client_async(base_model="tinsmith-tiny")).get_base_model()

    asyncio.run(script())


def test_timeouts_leave_the_operation_running(fake: FakeService, training: TrainingClient) -> None:
    training.result()
    fake.hold.clear()
    future = training.forward_backward(batch(1), "cross_entropy")
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)

    async def script() -> None:
        with pytest.raises(TimeoutError):
            await future.result_async(timeout=0.05)

    asyncio.run(script())
    background().call(fake.hold.set)
    assert future.result(10).metrics["loss:sum"] > 0


def test_errors_arrive_with_every_way_of_waiting(service: ServiceClient) -> None:
    """A model that could not be made fails every operation on it."""
    training = service.create_lora_training_client("no/such-model")
    future = training.forward_backward(batch(1), "cross_entropy")
    for wait in (training.result, future.result, training.get_info, training.sample("x", {"max_tokens": 1}).result):
        with pytest.raises(Exception, match="no/such-model"):
            wait()
    assert "no/such-model" in str(future.exception())


def test_blocking_on_the_sdk_s_own_loop_is_refused(training: TrainingClient) -> None:
    async def inside() -> None:
        Pending(background().submit(asyncio.sleep(1))).result()

    with pytest.raises(RuntimeError, match="own event loop"):
        background().submit(inside()).result(5)


def test_many_threads_share_a_client(fake: FakeService, training: TrainingClient) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: training.forward_backward(batch(2), "cross_entropy").result(), range(24)))
    assert len({result.metrics["loss:sum"] for result in results}) == 1
    assert [seq for seq, _, _ in fake.models[training.model_id].log] == list(range(1, 25))


def test_ctrl_c_interrupts_a_wait() -> None:
    # A suite that was started in the background has Ctrl-C ignored, and so would this script.
    code = """
import asyncio, signal
from tinsmith.client.transport.futures import Pending
signal.signal(signal.SIGINT, signal.default_int_handler)
from tinsmith.client.transport.loop import background
future = Pending(background().submit(asyncio.sleep(60)))
print("waiting", flush=True)
try:
    future.result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert out == "interrupted\n"
    assert process.returncode == 0
