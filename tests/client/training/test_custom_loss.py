"""Losses that are computed here: the weights sent back are the gradient, and a failure takes no step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.client.data import batch, datum
from tests.support.fakes.fake_service import FakeService, logprobs_of, loss_of
from tinsmith import AdamParams, Datum, ServiceClient, TrainingClient, UserError


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith-tiny")


def squares(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """Σ (lp + 1)²; its gradient is 2 (lp + 1)."""
    loss = torch.stack([((lp + 1) ** 2).sum() for lp in logprobs]).sum()
    return loss, {"datums:sum": float(len(data))}


@pytest.mark.row(203)
def test_weights_are_minus_the_gradient(fake: FakeService, service: ServiceClient) -> None:
    fake.config = {"fwdbwd_max_chunk_len": 2}
    training = service.create_lora_training_client("tinsmith-tiny")
    data = [*batch(4), Datum(datum(3).model_input, {"target_tokens": [[1, 2], [3, 4], [5, 6]]})]
    result = training.forward_backward_custom(data, squares).result()
    log = fake.models[training.model_id].log
    assert [(seq, kind) for seq, kind, _ in log] == [
        *((n, "forward") for n in (1, 2, 3)),
        *((n, "forward_backward") for n in (4, 5, 6)),
    ]
    sent = [one for _, kind, body in log if kind == "forward_backward" for one in body.data]
    for one, original in zip(sent, data, strict=True):
        expected = -2 * (logprobs_of(original, 0) + 1)
        np.testing.assert_allclose(one.loss_fn_inputs["weights"].to_numpy(), expected, rtol=1e-6)
        assert one.loss_fn_inputs["target_tokens"] == original.loss_fn_inputs["target_tokens"]
    forwarded = [one for _, kind, body in log if kind == "forward" for one in body.data]
    assert forwarded[0].loss_fn_inputs["weights"] == data[0].loss_fn_inputs["weights"]
    assert not forwarded[-1].loss_fn_inputs["weights"].to_numpy().any()
    custom = sum(float(((logprobs_of(one, 0) + 1) ** 2).sum()) for one in data)
    assert result.metrics["loss:sum"] == pytest.approx(custom, rel=1e-5)
    assert result.metrics["surrogate_loss:sum"] == pytest.approx(sum(loss_of(one, 0) for one in sent), rel=1e-5)
    assert result.metrics["datums:sum"] == 5
    assert [o["logprobs"].shape for o in result.loss_fn_outputs] == [
        one.loss_fn_inputs["target_tokens"].shape for one in data
    ]


def test_the_loss_sees_everything_the_service_little(fake: FakeService, training: TrainingClient) -> None:
    one = Datum(datum(3).model_input, {"target_tokens": [1, 2, 3], "mine": np.array([1.0, 2.0, 3.0])})

    def own(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        return (logprobs[0] * data[0].loss_fn_inputs["mine"].to_torch()).sum(), {}

    training.forward_backward_custom([one], own).result()
    assert [set(body.data[0].loss_fn_inputs) for _, _, body in fake.models[training.model_id].log] == [
        {"target_tokens", "weights"}
    ] * 2


def test_later_calls_queue_behind(fake: FakeService, training: TrainingClient) -> None:
    custom = training.forward_backward_custom(batch(2), squares)
    step = training.optim_step(AdamParams())
    step.result()
    custom.result()
    assert [kind for _, kind, _ in fake.models[training.model_id].log] == ["forward", "forward_backward", "optim_step"]


def test_a_failure_takes_no_step_and_poisons_nothing(fake: FakeService, training: TrainingClient) -> None:
    def broken(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        raise ZeroDivisionError("my mistake")

    training.forward_backward(batch(2), "cross_entropy")
    custom = training.forward_backward_custom(batch(2), broken)
    step = training.optim_step(AdamParams())
    with pytest.raises(ZeroDivisionError, match="my mistake"):
        custom.result()
    with pytest.raises(Exception, match=r"no step was taken: the forward_backward before it failed \(my mistake\)"):
        step.result()
    assert fake.models[training.model_id].steps == 0
    training.forward_backward_custom(batch(2), squares)
    training.optim_step(AdamParams()).result()
    assert fake.models[training.model_id].steps == 1


def test_faults_of_the_loss(training: TrainingClient) -> None:
    def first_only(data: list[Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        return logprobs[0].sum(), {}

    with pytest.raises(UserError, match=r"logprobs\[1\]\.grad"):
        training.forward_backward_custom(batch(2), first_only).result()
    with pytest.raises(UserError, match=r"data\[0\]\.loss_fn_inputs\['target_tokens'\]"):
        training.forward_backward_custom([Datum(tokens=[1, 2])], squares)
    with pytest.raises(UserError, match="loss_type_input"):
        training.forward_backward_custom(batch(1), squares, loss_type_input="logits")  # type: ignore[arg-type]
