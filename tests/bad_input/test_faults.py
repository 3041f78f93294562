"""Damaged files and repeated requests: a clear error, or nothing to be noticed at all."""

from __future__ import annotations

import pytest

from tests.bad_input.door import Door, datum, read
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import LiveServer


@pytest.mark.row(211)
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", ["torn", "one bit", "gone"])
def test_a_damaged_checkpoint_is_not_loaded(door: Door, live_server: LiveServer, file: str, damage: str) -> None:
    name = f"{damage}-{file}".replace(" ", "-")
    path = door.outcome("save_weights", door.ordered(path=name)).json()["path"]
    target = live_server.checkpoint_folder(path) / file
    content = target.read_bytes()
    if damage == "gone":
        target.unlink()
    elif damage == "torn":
        target.write_bytes(content[: len(content) // 2])
    else:
        target.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    answer = read(door.load(path))
    assert answer.status == 200
    assert file in answer.message
    assert name in answer.message


@pytest.mark.row(211)
def test_a_repeated_request_has_the_first_ones_future_and_runs_once(door: Door, live_server: LiveServer) -> None:
    def saved(name: str) -> dict:
        path = door.outcome("save_weights", door.ordered(path=name)).json()["path"]
        return adapter_weights(live_server.checkpoint_folder(path))

    before = saved("before-repeats")
    body = door.training_body(datum())
    step = door.ordered(adam_params={"learning_rate": 1e-2, "eps": 1e-3})
    content = {"Content-Type": "application/x-protobuf"}
    ids = set()
    for number in range(3):
        # As the SDK does it: the same place, another idempotency key.
        key = {"X-Idempotency-Key": f"try-{number}"}
        first = door.post("forward_backward", body, **content, **key).json()["request_id"]
        second = door.post("optim_step", step, **key).json()["request_id"]
        ids.add((first, second))
    assert len(ids) == 1
    once = saved("after-repeats")
    assert distance(once, before) > 1e-4
    other = Door(live_server)
    try:
        # A calm model with the same seed takes the same single step.
        other.train(datum())
        other.step(learning_rate=1e-2, eps=1e-3)
        calm = other.outcome("save_weights", other.ordered(path="calm")).json()["path"]
        assert distance(once, adapter_weights(live_server.checkpoint_folder(calm))) <= 1e-6
    finally:
        other.close()
    # The same place with other contents is a mistake of the client's.
    altered = door.post("optim_step", step | {"adam_params": {"learning_rate": 1.0}}).json()
    answer = read(door.post("retrieve_future", {"request_id": altered["request_id"]}))
    assert "seq_id" in answer.message
