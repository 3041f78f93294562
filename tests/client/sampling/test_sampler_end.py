"""Samplers end with their client: by `close()`, or when neither the client nor a request of it is held any more."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import SamplingParams, ServiceClient, TinsmithError, TrainingClient

SHORT = SamplingParams(max_tokens=3)


@pytest.fixture
def fake() -> FakeService:
    return FakeService(close_sampler=True)


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith-tiny")


def soon(test: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 3
    while not test() and time.monotonic() < deadline:
        time.sleep(0.01)
    return test()


class Gate:
    """Holds the samples of a service back."""

    def __init__(self, fake: FakeService) -> None:
        self.open = threading.Event()
        fake.network = self._wait

    async def _wait(self, moment: str, request: httpx.Request) -> None:
        if request.url.path.endswith("asample"):
            await asyncio.to_thread(self.open.wait, 5)


def closings(fake: FakeService) -> list[str]:
    return [path for _, path, _ in fake.seen if path.endswith("/close")]


def test_close_waits_for_what_was_asked_and_takes_no_more(fake: FakeService, training: TrainingClient) -> None:
    sampler = training.save_weights_and_get_sampling_client()
    kept = training.save_weights_and_get_sampling_client().result()
    sampler.result()
    gate = Gate(fake)
    futures = [sampler.sample([1, 2], 1, SHORT) for _ in range(3)]
    closing = threading.Thread(target=sampler.close)
    closing.start()
    time.sleep(0.2)
    assert closing.is_alive()
    assert not closings(fake)
    gate.open.set()
    closing.join(3)
    assert all(len(future.result().sequences) == 1 for future in futures)
    sampler.close()
    assert list(fake.samplers) == [kept.sampler_id]
    with pytest.raises(TinsmithError, match="was closed"):
        sampler.sample([1], 1, SHORT).result()
    with pytest.raises(TinsmithError, match="was closed"):
        sampler.compute_logprobs([1, 2]).result()
    assert kept.sample([1], 1, SHORT).result()


def test_a_client_that_is_dropped_frees_its_weights_once_its_requests_are_done(
    fake: FakeService, training: TrainingClient
) -> None:
    gate = Gate(fake)
    sampler = training.save_weights_and_get_sampling_client()
    future = sampler.sample([1, 2], 1, SHORT)
    del sampler
    gc.collect()
    time.sleep(0.2)
    assert not closings(fake)
    gate.open.set()
    assert future.result().sequences
    del future
    assert soon(lambda: not fake.samplers)
    assert len(closings(fake)) == 1


def test_nothing_waits_for_the_garbage_collector(fake: FakeService, training: TrainingClient) -> None:
    gc.collect()
    gc.disable()
    try:
        for wait in (True, False):
            sampler = training.save_weights_and_get_sampling_client()
            if wait:
                assert sampler.result() is sampler
            assert sampler.sample([1, 2], 1, SHORT).result()
            assert sampler.done()
            assert sampler.result() is sampler
            del sampler
            assert soon(lambda: not fake.samplers)
    finally:
        gc.enable()


def test_snapshots_of_a_long_run_do_not_pile_up(fake: FakeService, training: TrainingClient) -> None:
    for _ in range(20):
        training.forward_backward(batch(1), "cross_entropy")
        training.optim_step()
        assert training.sample([[1, 2]], {"max_tokens": 2}).result()
    assert soon(lambda: len(fake.samplers) <= 1)
    assert len({sampler for sampler, _, _ in fake.sampled}) == 20


def test_a_sampler_that_others_use_ends_by_close_or_with_its_session(
    fake: FakeService, service: ServiceClient, training: TrainingClient
) -> None:
    sampler = training.save_weights_and_get_sampling_client().result()
    sampler._poster.keep()  # what pickling and handles do; only a service at a URL has them
    del sampler
    gc.collect()
    time.sleep(0.2)
    assert len(fake.samplers) == 1
    assert not closings(fake)


@pytest.mark.parametrize("answer", [(404, b"{}", "application/json"), (500, b"{}", "application/json")])
def test_a_service_that_fails_to_close_does_no_harm(
    fake: FakeService, training: TrainingClient, answer: tuple[int, bytes, str]
) -> None:
    fake.intercept = lambda request: answer if request.url.path.endswith("/close") else None
    sampler = training.save_weights_and_get_sampling_client()
    assert sampler.sample([1], 1, SHORT).result()
    sampler.close()
    assert len(closings(fake)) == 1
    assert training.forward(batch(1), "cross_entropy").result()


def test_other_services_are_not_asked(embed: Callable[[FakeService], None]) -> None:
    fake = FakeService()
    embed(fake)
    training = ServiceClient().create_lora_training_client("tinsmith-tiny")
    sampler = training.save_weights_and_get_sampling_client()
    assert sampler.sample([1], 1, SHORT).result()
    sampler.close()
    assert not closings(fake)


def test_a_sampler_that_could_not_be_made_can_be_closed(fake: FakeService, service: ServiceClient) -> None:
    sampler = service.create_lora_training_client("no such model").save_weights_and_get_sampling_client()
    with pytest.raises(TinsmithError):
        sampler.result()
    sampler.close()
    assert not closings(fake)
