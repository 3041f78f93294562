"""Preference pairs through the official SDK: alternating datums, `loss_fn_config`, its own custom loss beside it."""

from __future__ import annotations

import numpy as np
import pytest
import tinker
import torch

from tests.official.batches import logprobs_of, pairs, supervised, worst
from tests.official.conftest import NewModel
from tests.official.reference import adapter_weights, distance
from tests.support.live_server import OTHER_LLAMA, LiveServer

WIRE = 1e-5
GRADIENT_STEP = tinker.AdamParams(learning_rate=1e12, beta1=0.0, beta2=0.0, eps=1e12)
BETA = 0.3


LENGTHS = [(5, 7, 3), (1, 2, 9), (30, 12, 12), (8, 1, 20)]
DATA = pairs(LENGTHS)


def custom_dpo(ref_logprobs: list[np.ndarray]) -> object:
    """The same loss for `forward_backward_custom`."""

    def loss(data: list[tinker.Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        weights = [torch.from_numpy(np.array(d.loss_fn_inputs["weights"].to_numpy())) for d in data]
        rewards = [
            BETA * (w * (lp - torch.from_numpy(ref))).sum()
            for w, lp, ref in zip(weights, logprobs, ref_logprobs, strict=True)
        ]
        margins = torch.stack([c - r for c, r in zip(rewards[0::2], rewards[1::2], strict=True)])
        return -torch.nn.functional.logsigmoid(margins).sum(), {"margin": float(margins.detach().mean())}

    return loss


@pytest.mark.row(90, 91, 95, 203)
@pytest.mark.parametrize("named", [False, True], ids=["base", "saved"])
def test_dpo_equals_the_same_loss_computed_by_the_client(
    named: bool, new_model: NewModel, live_server: LiveServer
) -> None:
    model = new_model()
    ahead, by = (
        model.forward_backward(supervised((20, 9), seed=5), "cross_entropy"),
        model.optim_step(tinker.AdamParams(learning_rate=1e-2)),
    )
    ahead.result(timeout=60), by.result(timeout=60)
    start = model.save_state("start").result(timeout=60).path
    base = logprobs_of(new_model(seed=9).forward(DATA, "cross_entropy").result(timeout=60))
    wanted_ref = logprobs_of(model.forward(DATA, "cross_entropy").result(timeout=60)) if named else base
    if named:
        # Elsewhere than where the reference is.
        model.optim_step(tinker.AdamParams(learning_rate=1e-2, weight_decay=0.5)).result(timeout=60)
    here = model.save_state("here").result(timeout=60).path
    before = adapter_weights(live_server.checkpoint_folder(here))

    def gradients(save: str) -> dict[str, np.ndarray]:
        model.optim_step(GRADIENT_STEP).result(timeout=60)
        saved = model.save_state(save).result(timeout=60).path
        after = adapter_weights(live_server.checkpoint_folder(saved))
        return {key: before[key].astype(np.float64) - after[key] for key in before}

    config = {"dpo_beta": BETA} | ({"reference": start} if named else {})
    output = model.forward_backward(DATA, "dpo", config).result(timeout=60)
    found = gradients("dpo")
    model.load_state(here).result(timeout=60)
    custom = model.forward_backward_custom(DATA, custom_dpo(wanted_ref)).result(timeout=60)
    wanted = gradients("custom")

    assert worst([np.array(o["ref_logprobs"].to_numpy()) for o in output.loss_fn_outputs], wanted_ref) <= WIRE
    assert output.metrics["loss:sum"] == pytest.approx(custom.metrics["loss:sum"], rel=WIRE)
    assert output.metrics["margin:mean"] == pytest.approx(custom.metrics["margin"], rel=1e-4, abs=1e-6)
    rewards = output.metrics["chosen_reward:mean"] - output.metrics["rejected_reward:mean"]
    assert rewards == pytest.approx(output.metrics["margin:mean"], rel=1e-4, abs=1e-6)
    assert 0 <= output.metrics["accuracy:mean"] <= 1
    assert distance(found, wanted) <= WIRE


@pytest.mark.row(90)
def test_given_reference_logprobs_come_before_every_reference(new_model: NewModel) -> None:
    model = new_model()
    data = [
        tinker.Datum(
            model_input=d.model_input,
            loss_fn_inputs={**d.loss_fn_inputs, "ref_logprobs": np.full(d.model_input.length, -1.5, np.float32)},
        )
        for d in DATA
    ]
    output = model.forward(data, "dpo", {"dpo_beta": BETA}).result(timeout=60)
    for datum, out in zip(data, output.loss_fn_outputs, strict=True):
        assert np.array_equal(out["ref_logprobs"].to_numpy(), np.full(datum.model_input.length, -1.5, np.float32))
    expected = custom_dpo([np.full(d.model_input.length, -1.5, np.float32) for d in DATA])
    custom = model.forward_backward_custom(DATA, expected).result(timeout=60)
    assert output.metrics["loss:sum"] == pytest.approx(custom.metrics["loss:sum"], rel=WIRE)


@pytest.mark.row(90)
def test_a_reference_stays_with_its_run_when_its_checkpoint_is_deleted(
    new_model: NewModel, rest: tinker.RestClient
) -> None:
    model, other = new_model(), new_model(rank=4, seed=7)
    other.forward_backward(supervised((20, 9), seed=5), "cross_entropy").result(timeout=60)
    other.optim_step(tinker.AdamParams(learning_rate=3e-2)).result(timeout=60)
    path = other.save_weights_for_sampler("reference").result(timeout=60).path
    config = {"dpo_beta": BETA}
    base = model.forward(DATA, "dpo", config).result(timeout=60).metrics
    named = model.forward_backward(DATA, "dpo", config | {"reference": path}).result(timeout=60).metrics
    assert named["margin:mean"] != pytest.approx(base["margin:mean"], abs=1e-4)
    rest.delete_checkpoint_from_tinker_path(path).result(timeout=60)
    # By name, and as what the run keeps.
    for again in (config | {"reference": path}, config):
        assert model.forward(DATA, "dpo", again).result(timeout=60).metrics == pytest.approx(named, rel=1e-6)
    saved = model.save_state("with-reference").result(timeout=60).path
    assert model.forward(DATA, "dpo", config | {"reference": "base"}).result(timeout=60).metrics == pytest.approx(
        base, rel=1e-6, abs=1e-6
    )
    fresh = new_model(seed=3)
    fresh.load_state(saved).result(timeout=60)
    assert fresh.forward(DATA, "dpo", config).result(timeout=60).metrics == pytest.approx(named, rel=1e-6)
    with pytest.raises(tinker.RequestFailedError, match="reference"):
        fresh.forward(DATA, "dpo", config | {"reference": path}).result(timeout=60)


@pytest.mark.row(90)
def test_a_reference_of_another_base_is_refused(new_model: NewModel) -> None:
    other = new_model(OTHER_LLAMA).save_weights_for_sampler("elsewhere").result(timeout=60).path
    with pytest.raises(tinker.RequestFailedError, match=r"reference.*tiny/llama, not of tiny/llama-other"):
        new_model().forward(DATA, "dpo", {"reference": other}).result(timeout=60)
