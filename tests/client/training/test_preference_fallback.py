"""Losses over pairs where the service has none: the same numbers, by way of the client's own loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.live_server import LLAMA, LiveServer
from tests.support.pairs import make_pair
from tinsmith import AdamParams, Datum, RequestFailedError, ServiceClient, TrainingClient, UserError
from tinsmith.client.transport.connection import Connection
from tinsmith.types.responses import ClientConfigResponse

MODEL = str(checkpoint("llama"))
ADAM = AdamParams(learning_rate=1e-2)
RNG = np.random.default_rng(3)
DATA = [one for lengths in ((5, 7, 3), (1, 2, 9), (20, 6, 6)) for one in make_pair(RNG, *lengths)]
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "dpo": ("dpo", {"dpo_beta": 0.3}),
    "dpo_options": ("dpo", {"label_smoothing": 0.1, "nll_coeff": 0.5}),
    "ipo": ("ipo", {"ipo_beta": 0.2}),
    "simpo": ("simpo", {"simpo_gamma": 0.3}),
}


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceClient]:
    with ServiceClient() as client:
        yield client


@pytest.fixture
def without_losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceClient]:
    """The same service, as if it did not say which losses it has."""
    ask = Connection._ask_config

    async def silent(self: Connection) -> ClientConfigResponse:
        return (await ask(self)).model_copy(update={"losses": []})

    monkeypatch.setattr(Connection, "_ask_config", silent)
    with ServiceClient() as client:
        yield client


def script(client: TrainingClient, loss_fn: str, **config: Any) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """Two steps and an evaluation; return metrics of all, and what the last one gives of each datum."""
    config |= {} if loss_fn == "simpo" else {"reference": "base"}
    steps = [client.forward_backward(DATA, loss_fn, config), client.optim_step(ADAM)]
    steps += [client.forward_backward(DATA, loss_fn, config)]
    client.optim_step(ADAM)
    last = client.forward(DATA, loss_fn, config).result()
    outputs = [output[key].to_numpy() for output in last.loss_fn_outputs for key in sorted(output)]
    return [step.result().metrics for step in (steps[0], steps[2])] + [last.metrics], outputs


def assert_same(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> None:
    for one, other in zip(found[0], wanted[0], strict=True):
        ours = {k: v for k, v in one.items() if k != "tokens:sum"}
        assert ours == pytest.approx({k: v for k, v in other.items() if k != "tokens:sum"}, rel=2e-4, abs=2e-5)
    for one, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.row(90, 95)
@pytest.mark.parametrize("case", CASES)
def test_the_fallback_gives_the_numbers_of_the_service(
    case: str, service: ServiceClient, without_losses: ServiceClient
) -> None:
    loss_fn, config = CASES[case]
    found, wanted = (
        script(client.create_lora_training_client(MODEL, rank=4, seed=1), loss_fn, **config)
        for client in (without_losses, service)
    )
    assert "margin:mean" in wanted[0][0]
    assert wanted[0][0]["margin:mean"] != wanted[0][2]["margin:mean"]
    assert_same(found, wanted)


@pytest.mark.row(90)
def test_the_fallback_measures_against_saved_weights(service: ServiceClient, without_losses: ServiceClient) -> None:
    def run(client: ServiceClient) -> list[float]:
        training = client.create_lora_training_client(MODEL, rank=4, seed=1)
        training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
        path = training.save_weights_for_sampler("reference")
        training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
        outputs = [
            training.forward(DATA, "dpo", reference=path),
            training.forward(DATA, "dpo"),
            training.forward_backward(DATA, "dpo", reference=path),
            training.forward(DATA, "dpo"),
        ]
        return [output.result().metrics["margin:mean"] for output in outputs]

    found, wanted = run(without_losses), run(service)
    # What a forward names is for that one alone; what a forward_backward names stays.
    assert wanted[2] == wanted[0] == pytest.approx(wanted[3], rel=1e-6)
    assert wanted[1] != pytest.approx(wanted[0], rel=1e-3)
    assert found == pytest.approx(wanted, rel=2e-4, abs=2e-5)


@pytest.mark.row(36, 90)
def test_what_the_fallback_refuses_takes_no_step(without_losses: ServiceClient) -> None:
    training = without_losses.create_lora_training_client(MODEL, rank=4, seed=1)
    state = training.save_state("state")
    bad: list[tuple[list[Datum], dict[str, Any], str]] = [
        (DATA, {"dpo_beta": -1.0}, "dpo_beta"),
        (DATA, {"reference": state}, "weights to sample from"),
        ([DATA[0], DATA[0]], {}, r"data\[1\]"),
    ]
    for data, config, message in bad:
        lost, step = training.forward_backward(data, "dpo", config), training.optim_step(ADAM)
        with pytest.raises(UserError, match=message):
            lost.result()
        with pytest.raises(RequestFailedError, match="no step was taken"):
            step.result()
    training.forward_backward(DATA, "dpo").result()
    training.optim_step(ADAM).result()


def but_for_ties(metrics: dict[str, float]) -> dict[str, float]:
    """On a fresh adapter policy and reference are equal, and which of a pair is ahead is a matter of rounding."""
    return {
        name: value for name, value in metrics.items() if abs(metrics["margin:mean"]) > 1e-6 or name != "accuracy:mean"
    }


@pytest.mark.row(21, 90)
def test_served_equals_embedded(service: ServiceClient, live_server: LiveServer) -> None:
    with ServiceClient(base_url=live_server.url, api_key=live_server.key) as served:
        found = script(served.create_lora_training_client(LLAMA, rank=4, seed=1), "dpo")
        folder = live_server.models[LLAMA]
        wanted = script(service.create_lora_training_client(folder, rank=4, seed=1), "dpo")
    for one, other in zip(found[0], wanted[0], strict=True):
        # A margin of nothing is a difference of logprob sums, of which one unit in the last place is 2e-7 of a reward.
        assert but_for_ties(one) == pytest.approx(but_for_ties(other), rel=1e-6, abs=1e-6)
