"""Whatever depends on training that failed says so: saves, samples, `get_info`, and the end of the client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tinsmith import AdamParams, Datum, RequestFailedError, ServiceClient, TrainingClient
from tinsmith.client.transport.outcomes import OperationFuture

LLAMA = str(checkpoint("llama"))
GOOD = Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[0.0, 1.0, 1.0])
# One weight too many, and an id that is not in the vocabulary.
BAD = Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[0.0, 1.0, 1.0, 1.0])
OUTSIDE = Datum(tokens=[1, 2, 10**6], targets=[2, 3, 4], weights=[0.0, 1.0, 1.0])


@pytest.fixture
def training(caplog: pytest.LogCaptureFixture) -> Iterator[TrainingClient]:
    with ServiceClient() as service:
        client = service.create_lora_training_client(LLAMA, rank=4)
        client.get_info()
        caplog.set_level(logging.WARNING, logger="tinsmith")
        yield client


def fail(client: TrainingClient, bad: Datum = BAD, steps: int = 3) -> None:
    for _ in range(steps):
        client.forward_backward([bad], "cross_entropy")
        client.optim_step(AdamParams(learning_rate=1e-3))


def save_state(client: TrainingClient) -> None:
    client.save_state("after").result()


def save_weights(client: TrainingClient) -> None:
    client.save_weights_for_sampler("after").result()


def sample(client: TrainingClient) -> None:
    client.sample([[1, 2, 3]], {"max_tokens": 1}).result()


def snapshot(client: TrainingClient) -> None:
    client.save_weights_and_get_sampling_client().result()


def get_info(client: TrainingClient) -> None:
    client.get_info()


@pytest.mark.parametrize("bad", [BAD, OUTSIDE], ids=["weights", "vocabulary"])
@pytest.mark.parametrize("depend", [save_state, save_weights, sample, snapshot, get_info])
def test_it_warns_with_the_number_and_the_first_reason(
    depend: Callable[[TrainingClient], None], bad: Datum, training: TrainingClient, caplog: pytest.LogCaptureFixture
) -> None:
    fail(training, bad)
    depend(training)
    (warning,) = [record.message for record in caplog.records]
    assert "6 of the 6 training operations before it failed" in warning
    assert "the first is forward_backward: data[0]" in warning


def test_a_save_s_answer_says_so_every_time(training: TrainingClient, caplog: pytest.LogCaptureFixture) -> None:
    training.forward_backward([GOOD], "cross_entropy")
    fail(training, steps=1)
    for name in ("one", "two"):
        saved = training.save_state(name).result()
        assert saved.failed_operations == 2
        assert saved.first_failure is not None
        assert saved.first_failure.startswith("forward_backward: data[0].loss_fn_inputs['weights']")
    assert len(caplog.records) == 2
    assert "2 of the 3 training operations" in caplog.text


def test_nothing_failed_nothing_is_said(training: TrainingClient, caplog: pytest.LogCaptureFixture) -> None:
    training.forward_backward([GOOD], "cross_entropy")
    training.optim_step(AdamParams(learning_rate=1e-3))
    saved = training.save_state("good").result()
    assert (saved.failed_operations, saved.first_failure) == (0, None)
    sample(training)
    get_info(training)
    assert caplog.text == ""


def test_a_state_that_is_loaded_makes_up_for_it(training: TrainingClient, caplog: pytest.LogCaptureFixture) -> None:
    path = training.save_state("before")
    fail(training)
    training.load_state(path).result()
    training.forward_backward([GOOD], "cross_entropy")
    assert training.save_state("after").result().failed_operations == 0
    assert caplog.text == ""


def test_samples_of_the_same_weights_warn_once(training: TrainingClient, caplog: pytest.LogCaptureFixture) -> None:
    fail(training)
    for _ in range(3):
        sample(training)
        snapshot(training)
    assert len(caplog.records) == 1


def test_a_step_says_why_its_batch_failed(training: TrainingClient, caplog: pytest.LogCaptureFixture) -> None:
    fail(training, OUTSIDE, steps=1)
    training.forward_backward([BAD], "cross_entropy")
    step = training.optim_step(AdamParams(learning_rate=1e-3))
    with pytest.raises(RequestFailedError, match=r"no step was taken: .*data\[0\]\.loss_fn_inputs\['weights'\]"):
        step.result()


def test_the_end_of_the_client_names_what_nobody_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="tinsmith")
    with ServiceClient() as service:
        training = service.create_lora_training_client(LLAMA, rank=4)
        fail(training, steps=2)
        sampler = service.create_sampling_client(base_model=LLAMA)
        sampler.sample([10**6], 1, {"max_tokens": 1})
    (warning,) = [record.message for record in caplog.records]
    assert "5 operations failed, and nobody asked for the result" in warning
    assert "forward_backward (2 times): data[0]" in warning
    assert "sample: " in warning


def test_it_names_nothing_that_was_looked_at_or_told(caplog: pytest.LogCaptureFixture) -> None:
    with ServiceClient() as service:
        training = service.create_lora_training_client(LLAMA, rank=4)
        for _ in range(2):
            failed = training.forward_backward([BAD], "cross_entropy")
            training.optim_step(AdamParams(learning_rate=1e-3))
            with pytest.raises(RequestFailedError):
                failed.result()
        get_info(training)
        caplog.clear()
        caplog.set_level(logging.WARNING, logger="tinsmith")
    assert caplog.text == ""


def test_a_model_that_does_not_load_is_named_at_the_first_use_or_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="tinsmith")
    with ServiceClient() as service:
        used = service.create_lora_training_client("/nope")
        with pytest.raises(RequestFailedError, match="'/nope', which is no folder"):
            used.get_tokenizer()
    assert caplog.text == ""
    with ServiceClient() as service:
        service.create_lora_training_client("/nope")
    (warning,) = [record.message for record in caplog.records]
    assert "create_lora_training_client: " in warning
    assert "'/nope', which is no folder" in warning
    assert "\n" not in warning.split("create_lora_training_client: ")[1]


@pytest.mark.parametrize(("data", "wakes"), [(GOOD, "set_result"), (BAD, "set_exception")])
def test_what_an_operation_came_to_is_known_before_its_future_wakes_anybody(
    data: Datum, wakes: str, training: TrainingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    wake = getattr(OperationFuture, wakes)

    def see(future: OperationFuture[Any], value: Any) -> None:
        if future.outcome.operation in ("forward_backward", "optim_step"):
            told.append(repr(training).split("steps=")[1])
        wake(future, value)

    monkeypatch.setattr(OperationFuture, wakes, see)
    # One after the other: results of two that run can come in either order.
    training.forward_backward([data], "cross_entropy").exception()
    training.optim_step(AdamParams(learning_rate=1e-3)).exception()
    failed = ["0, failed_operations=1)", "0, failed_operations=2)"]
    assert told == (["0)", "1)"] if wakes == "set_result" else failed)


def test_clients_and_futures_tell_what_they_are(training: TrainingClient) -> None:
    text = repr(training)
    assert text.startswith(f"TrainingClient(base_model={LLAMA!r}, rank=4, model_id=")
    assert text.endswith("steps=0)")
    done = training.forward_backward([GOOD], "cross_entropy")
    done.result()
    assert repr(done) == "<APIFuture forward_backward: done>"
    training.optim_step(AdamParams(learning_rate=1e-3)).result()
    failed = training.forward_backward([BAD], "cross_entropy")
    assert isinstance(failed.exception(), RequestFailedError)
    assert repr(failed).startswith("<APIFuture forward_backward: failed: data[0]")
    assert repr(training).endswith("steps=1, failed_operations=1)")
    drawn = training.sample([[1, 2, 3]], {"max_tokens": 2, "seed": 1})
    completions = drawn.result()
    assert repr(drawn) == f"<SampleFuture: {[str(completions[0])]}>"
    sampler = training.save_weights_and_get_sampling_client().result()
    assert repr(sampler).startswith(f"SamplingClient(base_model={LLAMA!r}, id=")
    with ServiceClient() as service:
        assert repr(service) == "ServiceClient(the embedded service)"
        broken = service.create_lora_training_client("/nope", rank=8)
        assert isinstance(broken.exception(), RequestFailedError)
        assert repr(broken).startswith("TrainingClient(base_model='/nope', rank=8, steps=0, creation failed: ")
