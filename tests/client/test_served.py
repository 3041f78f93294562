"""The SDK against a real `tinsmith serve`."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.support.live_server import LLAMA, LiveServer
from tinsmith import AdamParams, AuthenticationError, Datum, SamplingClient, ServiceClient, TrainingClient

ADAM = AdamParams(learning_rate=1e-3)
DATA = [
    Datum(tokens=[12, 56, 90], targets=[56, 90, 34], weights=[0.0, 0.0, 1.0]),
    Datum(tokens=[1, 2, 3, 4], targets=[2, 3, 4, 5], weights=[0.0, 1.0, 1.0, 0.5]),
]


def step(training: TrainingClient) -> float:
    loss = training.forward_backward(DATA, "cross_entropy")
    training.optim_step(ADAM)
    return loss.result().metrics["loss:sum"]


@pytest.fixture
def service(live_server: LiveServer) -> Iterator[ServiceClient]:
    with ServiceClient(base_url=live_server.url, api_key=live_server.key) as client:
        yield client


@pytest.mark.row(21)
def test_served_equals_embedded(service: ServiceClient, live_server: LiveServer) -> None:
    """The same script, here and there: the same numbers."""
    folder = live_server.models[LLAMA]
    with ServiceClient() as embedded:
        pairs = [
            (client.create_lora_training_client(name, rank=4, seed=1))
            for client, name in ((service, LLAMA), (embedded, folder))
        ]
        losses = [[step(training) for _ in range(3)] for training in pairs]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
        samples = [training.sample(["ab", [1, 2]], {"max_tokens": 4, "seed": 1, "n": 2}).result() for training in pairs]
        assert samples[0] == samples[1]


def test_a_wrong_key(live_server: LiveServer) -> None:
    client = ServiceClient(base_url=live_server.url, api_key="tml-wrong-key-entirely")
    with pytest.raises(AuthenticationError, match="X-API-Key"):
        client.create_lora_training_client(LLAMA).result()


def _sample_elsewhere(client: SamplingClient, seed: int) -> list[int]:
    return client.sample([1, 2, 3], 1, {"max_tokens": 4, "seed": seed}).result().sequences[0].tokens


def test_sampling_clients_in_other_processes(service: ServiceClient) -> None:
    client = service.create_lora_training_client(LLAMA, rank=4).save_weights_and_get_sampling_client()
    here = [_sample_elsewhere(client, seed) for seed in range(4)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(_sample_elsewhere, [client] * 4, range(4)))
    assert here == there


def test_tokenizer_and_chunks(service: ServiceClient) -> None:
    training = service.create_lora_training_client(LLAMA, rank=4)
    assert len(training.get_tokenizer()) > 256
    many = DATA * 1050
    outputs = training.forward(many, "cross_entropy").result()
    one = training.forward(DATA, "cross_entropy").result()
    assert len(outputs.loss_fn_outputs) == 2100
    assert outputs.metrics["loss:sum"] == pytest.approx(1050 * one.metrics["loss:sum"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.row(210)
def test_a_restart_goes_unnoticed(tmp_path: Path) -> None:
    """kill -9 while results are being waited for, and a new start: the loop carries on, with the same numbers."""
    server = LiveServer(tmp_path, LLAMA)
    server.start()
    try:
        client = ServiceClient(base_url=server.url, api_key=server.key)
        calm, training = (client.create_lora_training_client(LLAMA, rank=4, seed=1) for _ in range(2))
        expected = [step(calm) for _ in range(6)]
        found = [step(training) for _ in range(3)]
        futures = [(training.forward_backward(DATA, "cross_entropy"), training.optim_step(ADAM))[0] for _ in range(3)]
        server.kill()
        late = training.save_weights_and_get_sampling_client()
        waiting = threading.Thread(target=server.start)
        waiting.start()
        found += [future.result(120).metrics["loss:sum"] for future in futures]
        waiting.join()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert len(late.sample([1], 1, {"max_tokens": 2}).result(60).sequences) == 1
        client.close()
    finally:
        server.stop()


def test_ctrl_c_ends_a_script(live_server: LiveServer, tmp_path: Path) -> None:
    """A script that waits for the service ends at once, without a traceback of ours."""
    # A suite that was started in the background has Ctrl-C ignored, and so would this script.
    code = f"""
import signal, tinsmith
signal.signal(signal.SIGINT, signal.default_int_handler)
training = tinsmith.TrainingClient({LLAMA!r}, base_url={live_server.url!r}, api_key={live_server.key!r}).result()
try:
    print("ready", flush=True)
    while True:
        training.sample("a", {{"max_tokens": 500, "n": 16, "stop": []}}).result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    # Until it waits: a request that is just being made may be cut off with a warning of Python's.
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.row(55)
def test_back_to_back_is_not_slower_than_waiting(service: ServiceClient) -> None:
    """Every request of a pipelined loop is sent before the first result is there."""

    async def script() -> int:
        training = await service.create_lora_training_client_async(LLAMA, rank=4)
        futures = [training.forward_backward(DATA, "cross_entropy") for _ in range(20)]
        pending = sum(not future.done() for future in futures)
        await asyncio.gather(*futures)
        return pending

    assert asyncio.run(script()) > 10
