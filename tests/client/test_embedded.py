"""The embedded service: the real one, inside this process, behind the same clients."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tinsmith import AdamParams, Datum, RequestFailedError, SamplingParams, ServiceClient, TinsmithError, TrainingClient
from tinsmith.client.transport.loop import background

LLAMA = str(checkpoint("llama"))
QWEN = str(checkpoint("qwen3"))
ADAM = AdamParams(learning_rate=1e-3)
DATA = [
    Datum(tokens=[12, 56, 90], targets=[56, 90, 34], weights=[0.0, 0.0, 1.0]),
    Datum(tokens=[1, 2, 3, 4], targets=[2, 3, 4, 5], weights=[0.0, 1.0, 1.0, 0.5]),
]


@pytest.fixture
def service() -> Iterator[ServiceClient]:
    with ServiceClient() as client:
        yield client


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """End the service of this process; the next client starts one on a folder of its own."""
    from tinsmith import embedded

    def end() -> None:
        background().submit(embedded.stop()).result(60)

    end()
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    yield end
    end()


def _logprobs(client: TrainingClient) -> list[np.ndarray]:
    outputs = client.forward(DATA, "cross_entropy").result().loss_fn_outputs
    return [output["logprobs"].to_numpy() for output in outputs]


_LEAVES_EARLY = """
import time
from tinsmith import ServiceClient
from tinsmith.engine.checkpoints import whole_folders

write = whole_folders._write

def slowly(folder, files):
    folder.mkdir()
    time.sleep(1.5)
    folder.rmdir()
    write(folder, files)

whole_folders._write = slowly
client = ServiceClient().create_lora_training_client("tinsmith-tiny", rank=4)
client.save_weights_and_get_sampling_client()
client.save_weights_and_get_sampling_client()
"""


@pytest.mark.slow
def test_a_process_that_ends_while_snapshots_are_written_leaves_none_of_them(tmp_path: Path) -> None:
    env = {**os.environ, "TINSMITH_HOME": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", _LEAVES_EARLY], env=env, capture_output=True, text=True, check=True)
    assert "Traceback" not in child.stderr
    assert list((tmp_path / "samplers").iterdir()) == []


@pytest.mark.row(24, 30, 31)
def test_the_first_forward_is_the_base_s(service: ServiceClient) -> None:
    """A folder is a model; new adapters, whatever their seed and rank, change nothing."""
    one = service.create_lora_training_client(LLAMA, rank=4, seed=1)
    two = service.create_lora_training_client(LLAMA, rank=16, seed=2)
    base = service.create_sampling_client(base_model=LLAMA)
    for datum, first, second in zip(DATA, _logprobs(one), _logprobs(two), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
        tokens = [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].tolist()[-1]]
        scored = base.compute_logprobs(tokens).result()
        assert scored[0] is None
        np.testing.assert_allclose(first, np.array(scored[1:], np.float32), atol=1e-5)


@pytest.mark.row(2)
def test_adapters_of_one_base_sample_side_by_side(service: ServiceClient) -> None:
    clients = [service.create_lora_training_client(LLAMA, rank=4, seed=seed) for seed in (1, 2)]
    for sign, client in zip((1.0, -1.0), clients, strict=True):
        data = [
            Datum(d.model_input, {**d.loss_fn_inputs, "weights": np.full(d.model_input.length, sign)}) for d in DATA
        ]
        for _ in range(5):
            client.forward_backward(data, "cross_entropy")
            client.optim_step(AdamParams(learning_rate=2e-2))
    samplers = [client.save_weights_and_get_sampling_client() for client in clients]
    params = SamplingParams(max_tokens=8, temperature=0)
    together = [sampler.sample([1], 2, params) for sampler in samplers for _ in range(3)]
    tokens = [future.result().sequences[0].tokens for future in together]
    assert tokens[0] == tokens[1] == tokens[2]
    assert tokens[3] == tokens[4] == tokens[5]
    assert tokens[0] != tokens[3]
    assert tokens[0][:2] == [2, 3]


@pytest.mark.row(36)
def test_bad_input_disturbs_nobody(service: ServiceClient) -> None:
    good, bad = (service.create_lora_training_client(LLAMA, rank=4, seed=5) for _ in range(2))
    calm = service.create_lora_training_client(LLAMA, rank=4, seed=5)
    faults = {
        r"data\[0\].*weights.*shape": Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[1.0]),
        r"data\[0\].*target_tokens.*got 9999": Datum(tokens=[1, 2], targets=[2, 9999]),
        r"data\[0\]\.model_input.*got -1": Datum(tokens=[-1, 2], targets=[2, 3]),
        r"data\[0\].*weights.*got nan": Datum(tokens=[1, 2], targets=[2, 3], weights=[1.0, float("nan")]),
    }
    for message, datum in faults.items():
        good.forward_backward(DATA, "cross_entropy")
        refused = bad.forward_backward([datum], "cross_entropy")
        step = bad.optim_step(ADAM)
        good.optim_step(ADAM)
        calm.forward_backward(DATA, "cross_entropy")
        calm.optim_step(ADAM)
        with pytest.raises(RequestFailedError, match=message) as error:
            refused.result()
        assert error.value.category == "user"
        with pytest.raises(RequestFailedError):
            step.result()
    bad.forward_backward(DATA, "cross_entropy").result()
    for one, two in zip(_logprobs(good), _logprobs(calm), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.row(203)
def test_a_custom_loss_equals_the_built_in_one(service: ServiceClient) -> None:
    import torch

    def negative_likelihood(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        weighted = [(lp * d.loss_fn_inputs["weights"].to_torch()).sum() for d, lp in zip(data, logprobs, strict=True)]
        return -torch.stack(weighted).sum(), {"mine:sum": 1.0}

    built_in, custom = (service.create_lora_training_client(LLAMA, rank=4, seed=9) for _ in range(2))
    for _ in range(2):
        one = built_in.forward_backward(DATA, "cross_entropy")
        two = custom.forward_backward_custom(DATA, negative_likelihood)
        built_in.optim_step(ADAM)
        custom.optim_step(ADAM)
        assert two.result().metrics["loss:sum"] == pytest.approx(one.result().metrics["loss:sum"], rel=1e-5)
        assert two.result().metrics["mine:sum"] == 1.0
    for one, two in zip(_logprobs(built_in), _logprobs(custom), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_failed_custom_loss_takes_no_step(service: ServiceClient) -> None:
    """What else was accumulated is cleared with it, and the model goes on."""
    training, calm = (service.create_lora_training_client(LLAMA, rank=4, seed=3) for _ in range(2))
    before = _logprobs(training)
    training.forward_backward(DATA, "cross_entropy")
    training.forward_backward_custom(DATA, lambda data, logprobs: 1 / 0)
    step = training.optim_step(ADAM)
    with pytest.raises(RequestFailedError, match="no step was taken: the forward_backward before it failed"):
        step.result()
    for one, two in zip(before, _logprobs(training), strict=True):
        np.testing.assert_array_equal(one, two)
    for client in (training, calm):
        client.forward_backward(DATA, "cross_entropy")
        client.optim_step(ADAM).result()
    for one, two in zip(_logprobs(calm), _logprobs(training), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize("name", ["no/such-model-anywhere", "/no/such/folder"])
def test_a_model_that_is_not_there(service: ServiceClient, name: str) -> None:
    training = service.create_lora_training_client(name)
    for wait in (training.result, training.forward_backward(DATA, "cross_entropy").result):
        with pytest.raises(Exception, match=f"{name}.*expected|{name}.*no folder"):
            wait()


@pytest.mark.parametrize("when", ["while the service starts", "while models load"])
@pytest.mark.usefixtures("restart")
def test_a_stop_leaves_nobody_waiting(when: str) -> None:
    """Creations that a stop finds on their way end in an error, and the next client starts another service."""
    from tinsmith import embedded
    from tinsmith.cluster import in_process

    loading, going_on = threading.Event(), threading.Event()
    load, starts = in_process.load_engine, embedded.EmbeddedService.recover

    def held(*args: Any) -> Any:
        loading.set()
        assert going_on.wait(60)
        return load(*args)

    async def started(service: embedded.EmbeddedService) -> None:
        loading.set()
        await asyncio.to_thread(going_on.wait, 60)
        await starts(service)

    service = ServiceClient()
    with pytest.MonkeyPatch.context() as patch:
        if when == "while models load":
            service.create_lora_training_client("tinsmith-tiny", rank=4).result(60)
            patch.setattr(in_process, "load_engine", held)
        else:
            patch.setattr(embedded.EmbeddedService, "recover", started)
        # Two further models: one is being loaded, and the other waits for its turn.
        waiting = [service.create_lora_training_client(name, rank=4) for name in (LLAMA, QWEN)]
        assert loading.wait(60)
        stopping = background().submit(embedded.stop())
        going_on.set()
        stopping.result(60)
        for client in waiting:
            with pytest.raises(TinsmithError, match=r"was stopped|session_id: got"):
                client.result(60)
        with pytest.raises(TinsmithError, match="the embedded service of this process was stopped; make a new Serv"):
            service.create_lora_training_client(LLAMA, rank=4).result(60)
        service.close()
    with ServiceClient() as another:
        another.create_lora_training_client("tinsmith-tiny", rank=4).result(60)


@pytest.mark.row(116, 117)
def test_checkpoints_outlive_the_service(restart: Callable[[], None], tmp_path: Path) -> None:
    """Saved, stopped, started again: the same training goes on as if it had never stopped."""

    def step(client: TrainingClient) -> float:
        loss = client.forward_backward(DATA, "cross_entropy")
        client.optim_step(ADAM)
        return loss.result().metrics["loss:sum"]

    with ServiceClient() as service:
        training = service.create_lora_training_client(LLAMA, rank=4, seed=1)
        step(training)
        state, sampler = training.save_state(), training.save_weights_for_sampler("for-sampling")
        straight_on = [step(training) for _ in range(3)]
        sizes = {
            c.tinker_path: c.size_bytes
            for c in service.create_rest_client().list_user_checkpoints().result().checkpoints
        }
        assert sizes[str(state)] > 2 * sizes[str(sampler)] > 0
        said = service.create_sampling_client(sampler).sample([1, 2], 1, {"max_tokens": 5, "seed": 3}).result()
    restart()
    with ServiceClient() as service:
        resumed = service.create_training_client_from_state_with_optimizer(state)
        np.testing.assert_allclose([step(resumed) for _ in range(3)], straight_on, rtol=1e-6)
        fresh = service.create_training_client_from_state(state)
        first, second, third = (step(fresh) for _ in range(3))
        assert first == pytest.approx(straight_on[0], rel=1e-6)
        assert (second, third) != pytest.approx(tuple(straight_on[1:]), rel=1e-6)
        again = service.create_sampling_client(sampler).sample([1, 2], 1, {"max_tokens": 5, "seed": 3}).result()
        assert again.sequences[0].tokens == said.sequences[0].tokens
        client = service.create_rest_client()
        folder = client.download_checkpoint(sampler, tmp_path / "adapter").result()
        assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        client.delete_checkpoint_from_tinker_path(sampler).result()
        left = [c.tinker_path for c in client.list_user_checkpoints().result().checkpoints]
        assert left == [str(state)]
    shutil.rmtree(folder)


def test_many_clients_at_once(service: ServiceClient) -> None:
    """Submitted from one coroutine, ten clients train and sample together."""

    async def script() -> list[float]:
        clients = [service.create_lora_training_client(LLAMA, rank=4, seed=1) for _ in range(10)]
        await asyncio.gather(*clients)
        losses = []
        for _ in range(3):
            outputs = [client.forward_backward(DATA, "cross_entropy") for client in clients]
            steps = [client.optim_step(ADAM) for client in clients]
            samples = [client.sample("ab", {"max_tokens": 2, "seed": 1, "n": 2}) for client in clients]
            losses.append({round(output.metrics["loss:sum"], 4) for output in await asyncio.gather(*outputs)})
            await asyncio.gather(*steps)
            assert len({tuple(sample) for sample in await asyncio.gather(*samples)}) == 1
        assert all(len(values) == 1 for values in losses)
        return [values.pop() for values in losses]

    losses = asyncio.run(script())
    assert losses[0] > losses[1] > losses[2]
