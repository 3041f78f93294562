"""Two clients train on one base at the same moment; each gets what it would have got alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import tinker

from tests.official.batches import supervised
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import LLAMA, LiveServer

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
