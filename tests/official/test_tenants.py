"""Several tenants on one service: owners are kept apart, and a flood of one does not hold up another."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import tinker

from benchmarks.spawn import clean_environment
from tests.official.batches import logprobs_of, model_input, supervised, worst
from tests.official.conftest import NewModel
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import LLAMA, LiveServer

# A small eps would make the step of an entry whose gradient is all rounding error a coin toss.
ADAM = tinker.AdamParams(learning_rate=1e-3, eps=1e-3)


def train(server: LiveServer, seed: int, steps: int = 8) -> str:
    """Train one adapter in a session of its own; return the saved path."""
    with server.service() as service:
        model = service.create_lora_training_client(LLAMA, rank=4 + seed, seed=seed).result(timeout=60)
        for number in range(steps):
            futures = [
                model.forward_backward(supervised((9, 17 + seed), seed=100 * seed + number), "cross_entropy"),
                model.optim_step(ADAM),
            ]
            # One client runs ahead by a step, the other waits for each of its own.
            if seed % 2:
                for future in futures:
                    future.result(timeout=60)
        return model.save_state("end").result(timeout=60).path


@pytest.mark.row(2, 11, 207)
def test_two_clients_at_once_equal_each_alone(live_server: LiveServer) -> None:
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: train(live_server, seed), (1, 2)))
    alone = [train(live_server, seed) for seed in (1, 2)]
    for one, other in zip(together, alone, strict=True):
        assert one != other
        found, wanted = (adapter_weights(live_server.checkpoint_folder(path)) for path in (one, other))
        assert distance(found, wanted) <= 1e-6


@pytest.mark.row(212)
def test_a_flood_of_samples_does_not_hold_up_a_training_step(live_server: LiveServer, new_model: NewModel) -> None:
    model = new_model()
    params = tinker.SamplingParams(max_tokens=500, stop=[], seed=1)
    with live_server.service() as service:
        flooder = service.create_sampling_client(base_model=LLAMA).result(timeout=60)
        flood = [flooder.sample(model_input([n]), 4, params) for n in range(1, 81)]
        while pending(live_server) < len(flood) / 2:
            time.sleep(0.05)
        for number in range(3):
            model.forward_backward(supervised((20,), seed=number), "cross_entropy")
            model.optim_step(ADAM).result(timeout=60)
        unfinished = [future for future in flood if not future.future().done()]
    assert len(unfinished) > len(flood) / 2, "three small steps must not wait until the flood has run off"
    # The flood ends with its session.
    with pytest.raises(tinker.RequestFailedError, match="session was finished"):
        unfinished[-1].result(timeout=60)
    while pending(live_server):
        time.sleep(0.05)


def pending(server: LiveServer) -> float:
    """Operations that wait for their outcome, as the service counts them."""
    with server.http() as http:
        page = http.get("/metrics").text
    found = re.search(r"^tinsmith_pending_operations (\S+)$", page, re.MULTILINE)
    assert found, page
    return float(found.group(1))


@pytest.fixture(scope="module")
def stranger(live_server: LiveServer) -> tinker.RestClient:
    """The REST client of another owner, whose key was made on the command line."""
    command = [sys.executable, "-m", "tinsmith.cli.main", "key", "create", "stranger", "--data-dir"]
    done = subprocess.run(
        [*command, str(live_server.data_dir)], capture_output=True, text=True, check=True, env=clean_environment()
    )
    found = re.search(r"tml-\S+", done.stdout)
    assert found
    return tinker.RestClient(base_url=live_server.url, api_key=found.group())


@pytest.mark.row(213)
def test_owners_see_and_change_only_what_is_theirs(
    stranger: tinker.RestClient, new_model: NewModel, rest: tinker.RestClient, live_server: LiveServer
) -> None:
    model = new_model()
    state = model.save_state("mine").result(timeout=60).path
    sampler = model.save_weights_for_sampler("mine").result(timeout=60).path
    session = model.model_id.split(":")[0]
    refused: list[Callable[[], tinker.APIFuture]] = [
        lambda: stranger.get_training_run(model.model_id),
        lambda: stranger.get_session(session),
        lambda: stranger.list_checkpoints(model.model_id),
        lambda: stranger.get_weights_info_by_tinker_path(state),
        lambda: stranger.delete_checkpoint_from_tinker_path(state),
        lambda: stranger.publish_checkpoint_from_tinker_path(state),
        lambda: stranger.set_checkpoint_ttl_from_tinker_path(state, 7200),
    ]
    for call in refused:
        with pytest.raises(tinker.NotFoundError):
            call().result(timeout=60)
    assert stranger.list_training_runs().result(timeout=60).training_runs == []
    assert stranger.list_user_checkpoints().result(timeout=60).checkpoints == []
    assert stranger.list_sessions().result(timeout=60).sessions == []
    with tinker.ServiceClient(base_url=live_server.url, api_key=stranger.holder._api_key) as service:
        with pytest.raises(tinker.RequestFailedError, match="weights/mine"):
            service.create_training_client_from_state(state).result(timeout=60)
        with pytest.raises(tinker.NotFoundError, match="sampler_weights/mine"):
            service.create_sampling_client(model_path=sampler).result(timeout=60)
        # Published, it can be read by others, and still be changed by its owner alone.
        rest.publish_checkpoint_from_tinker_path(state).result(timeout=60)
        loaded = service.create_training_client_from_state(state).result(timeout=60)
        data = supervised((20,))
        found, wanted = (m.forward(data, "cross_entropy").result(timeout=60) for m in (loaded, model))
        assert worst(logprobs_of(found), logprobs_of(wanted)) <= 1e-7
        with pytest.raises(tinker.NotFoundError):
            stranger.delete_checkpoint_from_tinker_path(state).result(timeout=60)
