"""Kill the server or its engine while a script of the official SDK runs: it goes on and ends where a calm one does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tinker

from tests.official.batches import logprobs_of, model_input, pairs, supervised, worst
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import LLAMA, LiveServer

# A small eps would make the step of an entry whose gradient is all rounding error a coin toss.
ADAM = tinker.AdamParams(learning_rate=5e-3, eps=1e-3)
STEPS = 5
TIMEOUT = 200
KILLED_AFTER = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that may be killed."""
    server = LiveServer(tmp_path_factory.mktemp("restart"), LLAMA)
    server.start()
    yield server
    server.stop()


def script(server: LiveServer, disturb: Callable[[int], None], steps: int = STEPS) -> tuple[list, list, dict]:
    """Train and sample; `disturb` is called between submitting each step and reading its results."""
    with server.service() as service:
        model = service.create_lora_training_client(LLAMA, rank=8, seed=3).result(timeout=TIMEOUT)
        losses = []
        for number in range(steps):
            futures = [
                model.forward_backward(supervised((12, 20), seed=number), "cross_entropy"),
                model.forward_backward(supervised((7,), seed=50 + number), "cross_entropy"),
                model.optim_step(ADAM),
            ]
            disturb(number)
            losses += [future.result(timeout=TIMEOUT).metrics["loss:sum"] for future in futures[:2]]
            futures[2].result(timeout=TIMEOUT)
            if number == 1:
                sampler = model.save_weights_and_get_sampling_client().result(timeout=TIMEOUT)
        params = tinker.SamplingParams(max_tokens=8, seed=4, stop=[])
        sampled = sampler.sample(model_input([1, 2, 3]), 2, params).result(timeout=TIMEOUT)
        path = model.save_state("end").result(timeout=TIMEOUT).path
        probe = model.forward(supervised((30,), seed=99), "cross_entropy").result(timeout=TIMEOUT)
    tokens = [list(sequence.tokens) for sequence in sampled.sequences]
    return losses, [*logprobs_of(probe), np.array(tokens, float)], adapter_weights(server.checkpoint_folder(path))


@pytest.fixture(scope="module")
def calm(server: LiveServer) -> tuple[list, list, dict]:
    """What the script gives when nothing happens."""
    return script(server, lambda number: None)


@pytest.mark.row(11, 116, 210)
@pytest.mark.parametrize("what", [pytest.param("whole service", marks=pytest.mark.slow), "engine"])
def test_the_script_carries_on_from_the_same_weights(
    what: str, server: LiveServer, calm: tuple[list, list, dict]
) -> None:
    def disturb(number: int) -> None:
        if number != KILLED_AFTER:
            return
        if what == "engine":
            server.kill_engine()
            return
        server.kill()
        # The client notices a dead server first, then a living one.
        threading.Timer(0.5, server.start).start()

    losses, outputs, weights = script(server, disturb)
    assert losses == pytest.approx(calm[0], rel=1e-5)
    assert worst(outputs, calm[1]) <= 1e-5
    assert distance(weights, calm[2]) <= 1e-5


def preferences(server: LiveServer, disturb: Callable[[int], None]) -> list[dict[str, float]]:
    """Train on pairs against saved weights that are deleted once the run has named them; return all metrics."""
    with server.service() as service:
        rest = tinker.RestClient(base_url=server.url, api_key=server.key)
        other = service.create_lora_training_client(LLAMA, rank=4, seed=9).result(timeout=TIMEOUT)
        other.forward_backward(supervised((12, 20)), "cross_entropy").result(timeout=TIMEOUT)
        other.optim_step(tinker.AdamParams(learning_rate=3e-2)).result(timeout=TIMEOUT)
        path = other.save_weights_for_sampler("reference").result(timeout=TIMEOUT).path
        model = service.create_lora_training_client(LLAMA, rank=8, seed=3).result(timeout=TIMEOUT)
        metrics = []
        for number in range(STEPS):
            # Two batches, over and over: from the third step on their reference logprobs are known.
            data = pairs([(5, 7, 3), (9, 4, 12)], seed=number % 2)
            config = {"dpo_beta": 0.2} | ({"reference": path} if number == 0 else {})
            futures = [model.forward_backward(data, "dpo", config), model.optim_step(ADAM)]
            disturb(number)
            metrics.append(futures[0].result(timeout=TIMEOUT).metrics)
            futures[1].result(timeout=TIMEOUT)
            if number == 0:
                rest.delete_checkpoint_from_tinker_path(path).result(timeout=TIMEOUT)
        state = model.save_state("end").result(timeout=TIMEOUT).path
        resumed = service.create_training_client_from_state_with_optimizer(state).result(timeout=TIMEOUT)
        for client in (model, resumed):
            metrics.append(client.forward(data, "dpo", {"dpo_beta": 0.2}).result(timeout=TIMEOUT).metrics)
    return metrics


@pytest.mark.slow
@pytest.mark.row(90, 210)
def test_a_killed_service_goes_on_with_its_reference(server: LiveServer) -> None:
    def disturb(number: int) -> None:
        if number == 3:
            server.kill()
            threading.Timer(0.5, server.start).start()

    calm, disturbed = preferences(server, lambda number: None), preferences(server, disturb)
    # To the last bit: what is computed anew after the kill was known before it.
    assert disturbed == calm
    assert calm[-1] == calm[-2]
    assert len({one["margin:mean"] for one in calm}) == STEPS + 1


@pytest.mark.slow
@pytest.mark.row(11, 116, 210)
def test_kills_at_random_moments_change_nothing(server: LiveServer) -> None:
    wanted = script(server, lambda number: None, steps=30)
    rng, done, kills = random.Random(0), threading.Event(), []

    def chaos() -> None:
        while not done.wait(rng.uniform(0.2, 4)):
            kills.append(rng.random() < 0.5)
            if kills[-1]:
                server.kill_engine()
            else:
                server.kill()
                server.start()

    thread = threading.Thread(target=chaos)
    thread.start()
    try:
        losses, outputs, weights = script(server, lambda number: time.sleep(0.3), steps=30)
    finally:
        done.set()
        thread.join()
    assert len(set(kills)) == 2, "both kinds of kill must have happened"
    assert losses == pytest.approx(wanted[0], rel=1e-5)
    assert worst(outputs, wanted[1]) <= 1e-5
    assert distance(weights, wanted[2]) <= 1e-5
