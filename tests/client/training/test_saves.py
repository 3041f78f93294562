"""Saves and loads: addresses that are known at once, names, lifetimes, what is asked of the service."""

from __future__ import annotations

import asyncio
import json
import pickle

import httpx
import pytest

from tests.support.fakes.fake_service import FakeService
from tinsmith import AdamParams, SavedPath, ServiceClient, TrainingClient, UserError
from tinsmith.client.transport.loop import background


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith-tiny")


@pytest.mark.row(114, 115)
def test_addresses_are_strings_known_at_once(fake: FakeService, training: TrainingClient) -> None:
    training.result()
    fake.hold.clear()
    sampler = training.save_weights_for_sampler()
    state = training.save_state()
    named = training.save_state("step-1")
    model = training.model_id
    assert sampler == f"tinker://{model}/sampler_weights/auto-0"
    assert state == f"tinker://{model}/weights/auto-1"
    assert named == f"tinker://{model}/weights/step-1"
    assert isinstance(state, str)
    assert isinstance(state, SavedPath)
    assert not state.done()
    background().call(fake.hold.set)
    assert state.result().path == state.path == str(state) == state
    assert type(str(state)) is str
    assert json.loads(json.dumps({"uri": state})) == {"uri": str(state)}
    assert pickle.loads(pickle.dumps(state)) == state

    async def script() -> None:
        assert (await state).path == state
        assert (await (await training.save_state_async("step-2"))).path.endswith("/weights/step-2")
        assert (await training.save_weights_for_sampler_async("end")) == f"tinker://{model}/sampler_weights/end"

    asyncio.run(script())


def test_automatic_names_avoid_those_in_use(training: TrainingClient) -> None:
    training.save_state("auto-0")
    training.save_state("auto-2")
    assert [training.save_state().rpartition("/")[2] for _ in range(3)] == ["auto-1", "auto-3", "auto-4"]


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "x" * 256])
def test_bad_names_are_refused_before_anything_is_sent(training: TrainingClient, name: str) -> None:
    with pytest.raises(UserError, match="name: got"):
        training.save_state(name)


@pytest.mark.row(115)
def test_another_address_is_an_error(fake: FakeService, training: TrainingClient) -> None:
    training.result()

    def elsewhere(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("retrieve_future"):
            return 200, b'{"path": "tinker://other/weights/x"}', "application/json"
        return None

    fake.intercept = elsewhere
    saved = training.save_state("x")
    with pytest.raises(Exception, match="saved to tinker://other/weights/x, expected tinker://s-0:train:0/weights/x"):
        saved.result()


def test_what_the_service_is_asked(fake: FakeService, training: TrainingClient) -> None:
    training.save_state("a", ttl_seconds=7200, overwrite=True, user_metadata={"k": "v"}).result()
    training.save_weights_for_sampler("b").result()
    state, sampler = (body for _, _, body in fake.models[training.model_id].log)
    assert {k: state[k] for k in ("path", "ttl_seconds", "overwrite", "user_metadata")} == {
        "path": "a",
        "ttl_seconds": 7200,
        "overwrite": True,
        "user_metadata": {"k": "v"},
    }
    assert sampler["path"] == "b"
    assert sampler["kind"] == "snapshot"
    assert "ttl_seconds" not in sampler


@pytest.mark.row(114, 117)
def test_load(fake: FakeService, training: TrainingClient) -> None:
    """Weights and optimizer; the weights alone on request."""
    state = training.save_state()
    training.load_state(state).result()
    training.load_state(state, with_optimizer=False).result()
    training.load_state_with_optimizer(state, "tml-of-somebody-else").result()
    loads = [body for _, kind, body in fake.models[training.model_id].log if kind == "load_weights"]
    assert [(body["path"], body["optimizer"], body.get("weights_access_token")) for body in loads] == [
        (state, True, None),
        (state, False, None),
        (state, True, "tml-of-somebody-else"),
    ]
    with pytest.raises(UserError, match="path: got 'somewhere'"):
        training.load_state("somewhere")


def test_new_clients_from_a_state(fake: FakeService, service: ServiceClient, training: TrainingClient) -> None:
    state = training.save_state()
    fresh = service.create_training_client_from_state(state, user_metadata={"a": "b"}).result()
    resumed = service.create_training_client_from_state_with_optimizer(state, weights_access_token="tml-x").result()
    bodies = [fake.models[client.model_id].log[0][2] for client in (fresh, resumed)]
    assert [(body["path"], body["optimizer"]) for body in bodies] == [(state, False), (state, True)]
    assert (bodies[0]["user_metadata"], bodies[1]["weights_access_token"]) == ({"a": "b"}, "tml-x")
    assert [client.model_id for client in (training, fresh, resumed)] == [f"s-0:train:{i}" for i in range(3)]
    with pytest.raises(UserError, match="path: got 'x'"):
        service.create_training_client_from_state("x")


def test_what_is_being_saved_is_waited_for(fake: FakeService, service: ServiceClient, training: TrainingClient) -> None:
    """A checkpoint of one model may go into another before its save is done."""
    other = service.create_lora_training_client("tinsmith-tiny").result()
    training.result()
    fake.hold.clear()
    state, weights = training.save_state("a"), training.save_weights_for_sampler("b")
    after = [
        service.create_training_client_from_state(state),
        service.create_sampling_client(weights),
        other.load_state(state),
    ]
    asyncio.run(asyncio.sleep(0.1))
    sent = [path for _, path, _ in fake.seen]
    assert "load_weights" not in sent
    assert "create_sampling_session" not in sent
    background().call(fake.hold.set)
    for future in after:
        future.result(10)
    assert fake.samplers["s-0:sample:0"][1] == weights


@pytest.mark.row(16, 61)
def test_steps(fake: FakeService, training: TrainingClient) -> None:
    """Without arguments the learning rate is the course's, from the hidden size that get_info tells."""
    training.optim_step().result()
    training.optim_step(AdamParams(learning_rate=2e-4, beta1=0.8, beta2=0.9, eps=1e-8)).result()
    training.optim_step(adam_params=AdamParams(grad_clip_norm=1.0)).result()
    default, own, named = (body["adam_params"] for _, _, body in fake.models[training.model_id].log)
    assert default["learning_rate"] == pytest.approx(5e-5 * 10 * (2000 / 192) ** 0.0775)
    assert (own["learning_rate"], own["beta1"], own["beta2"], own["eps"]) == (2e-4, 0.8, 0.9, 1e-8)
    assert named["grad_clip_norm"] == 1.0
    with pytest.raises(UserError, match="one of them"):
        training.optim_step(AdamParams(), adam_params=AdamParams())
    with pytest.raises(UserError, match="expected AdamParams"):
        training.optim_step({"learning_rate": 1.0})  # type: ignore[arg-type]


@pytest.mark.row(90)
def test_further_keywords_are_the_loss_s(fake: FakeService, service: ServiceClient) -> None:
    from tests.client.data import batch

    fake.config = {"losses": ["dpo", "ppo"]}
    training = service.create_lora_training_client("tinsmith-tiny")
    training.forward_backward(data=batch(2), loss_fn="dpo", dpo_beta=0.1).result()
    training.forward_backward(batch(2), "ppo", {"clip_low_threshold": 0.7}, reference="tinker://x").result()
    first, second = (body.loss_fn_config for _, _, body in fake.models[training.model_id].log)
    assert first == {"dpo_beta": 0.1}
    assert second == {"clip_low_threshold": 0.7, "reference": "tinker://x"}
    with pytest.raises(UserError, match="given twice"):
        training.forward_backward(batch(2), "dpo", {"dpo_beta": 0.1}, dpo_beta=0.2)
    with pytest.raises(UserError, match=r"loss_fn_config\['loss_fn_confg'\]: got \{'a': 1\}"):
        training.forward_backward(batch(2), "ppo", loss_fn_confg={"a": 1})  # type: ignore[arg-type]
