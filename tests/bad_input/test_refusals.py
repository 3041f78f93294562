"""Every bad request is refused where the protocol wants it, by a message that names field, value and expectation."""

from __future__ import annotations

import threading

import pytest
import tinker

from tests.bad_input.cases import CASES
from tests.bad_input.door import Answer, Door, datum, read
from tests.official.batches import supervised
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import LLAMA, LiveServer


@pytest.mark.row(36, 203, 205, 213)
@pytest.mark.parametrize("name", CASES)
def test_is_refused_by_name(door: Door, name: str) -> None:
    case = CASES[name]
    answer = read(case.send(door))
    assert (answer.status, answer.category) == (case.status, case.category), answer
    missing = [part for part in case.names if part not in answer.message]
    assert not missing, f"{answer.message!r} does not name {missing}"


@pytest.mark.row(36)
def test_a_failed_pass_fails_its_step_clears_the_gradients_and_leaves_the_weights(
    door: Door, live_server: LiveServer
) -> None:
    def saved(name: str) -> dict:
        path = door.outcome("save_weights", door.ordered(path=name)).json()["path"]
        return adapter_weights(live_server.checkpoint_folder(path))

    before = saved("before")
    good = door.train(datum(), datum([9, 10, 11]))
    assert len(good.json()["loss_fn_outputs"]) == 2
    read(door.train(datum(weights=[1.0])))
    answer = read(door.step(learning_rate=1e-2))
    assert answer == Answer(200, "user", answer.message)
    assert "forward_backward" in answer.message
    assert distance(saved("after-failure"), before) == 0
    # Nothing of the failed step is left: the next one is that of its own data alone.
    door.train(datum())
    assert "metrics" in door.step(learning_rate=1e-2).json()
    once = saved("after-step")
    assert distance(once, before) > 1e-3


def _train(service: tinker.ServiceClient, steps: int) -> str:
    """Train an adapter with a fixed seed on fixed data; return where it was saved."""
    model = service.create_lora_training_client(LLAMA, rank=8, seed=5).result(timeout=60)
    for number in range(steps):
        model.forward_backward(supervised((12, 25), seed=number), "cross_entropy")
        model.optim_step(tinker.AdamParams(learning_rate=5e-3, eps=1e-3)).result(timeout=60)
    return model.save_state("end").result(timeout=60).path


@pytest.mark.row(36, 207)
def test_a_neighbour_that_trains_meanwhile_is_not_disturbed(live_server: LiveServer) -> None:
    steps, started, paths = 30, threading.Event(), []
    with live_server.service() as service:

        def neighbour() -> None:
            started.set()
            paths.append(_train(service, steps))

        thread = threading.Thread(target=neighbour)
        thread.start()
        started.wait()
        door, rounds = Door(live_server), 0
        while thread.is_alive() or rounds == 0:
            for case in CASES.values():
                read(case.send(door))
            rounds += 1
        thread.join()
        door.close()
        paths.append(_train(service, steps))
    disturbed, calm = (adapter_weights(live_server.checkpoint_folder(path)) for path in paths)
    assert distance(disturbed, calm) <= 1e-6
