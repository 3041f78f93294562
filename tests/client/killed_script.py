"""A script as people write them: it trains with the service in its process, and goes on from what an earlier life left.

`python -m tests.client.killed_script STEP MODEL` trains another model for a step, and kills itself, as `kill -9` does,
once STEP of the shipped one is acknowledged.
"""

from __future__ import annotations

import os
import signal
import sys

from tinsmith import AdamParams, Datum, ServiceClient, TrainingClient

STEPS = 6
ADAM = AdamParams(learning_rate=1e-2)


def data(step: int) -> list[Datum]:
    """Return the batch of a step."""
    return [Datum(tokens=[12, 56, 90 + step], targets=[56, 90 + step, 34], weights=[0.0, 0.5, 1.0])]


def train(kill_after: int | None = None) -> tuple[TrainingClient, int]:
    """Train to the end, from the beginning or from what was recovered; return the client and the first step."""
    service = ServiceClient()
    found = service.create_rest_client().list_user_checkpoints().result().checkpoints
    recovered = [one for one in found if (one.user_metadata or {}).get("recovered")]
    if recovered:
        first = int((recovered[0].user_metadata or {})["optimizer_steps"])
        client = service.create_training_client_from_state_with_optimizer(recovered[0].tinker_path)
    else:
        first = 0
        client = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=1)
    for step in range(first, STEPS):
        passed, stepped = client.forward_backward(data(step), "cross_entropy"), client.optim_step(ADAM)
        passed.result()
        stepped.result()
        if step + 1 == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return client, first


def train_another(model: str) -> TrainingClient:
    """Train a model from a folder for one step."""
    client = ServiceClient().create_lora_training_client(model, rank=2, user_metadata={"script": "another"})
    client.forward_backward(data(0), "cross_entropy").result()
    client.optim_step(ADAM).result()
    return client


if __name__ == "__main__":
    another = train_another(sys.argv[2])
    train(int(sys.argv[1]))
