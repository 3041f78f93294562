"""forward, forward_backward, optim_step: values against plain transformers + PEFT + torch."""

from __future__ import annotations

import numpy as np
import pytest
import tinker
import torch

from tests.official.batches import (
    LOSS_CASES,
    RECORDED_CASES,
    batch_for,
    logprobs_of,
    model_input,
    numpy_loss,
    sampled_datums,
    supervised,
    worst,
)
from tests.official.conftest import NewModel
from tests.official.reference import Reference, adapter_weights, distance
from tests.support.live_server import FAMILY_OF, LLAMA, MOE, LiveServer, model_folder

WIRE = 1e-5
LENGTHS = (5, 33, 1, 12, 60, 7)
# With both betas 0 and a huge eps a step moves every weight by -lr * g / eps: with lr = eps the gradient itself.
GRADIENT_STEP = tinker.AdamParams(learning_rate=1e12, beta1=0.0, beta2=0.0, eps=1e12)
# A small eps would make the step of an entry whose gradient is all rounding error a coin toss.
ADAM = tinker.AdamParams(learning_rate=5e-3, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1, grad_clip_norm=0.5)


def step(model: tinker.TrainingClient, data: list[tinker.Datum], adam: tinker.AdamParams = ADAM) -> None:
    """One supervised step, submitted without waiting in between."""
    first, second = model.forward_backward(data, "cross_entropy"), model.optim_step(adam)
    first.result(timeout=60)
    second.result(timeout=60)


@pytest.mark.row(15, 27, 30, 31, 201)
def test_a_new_adapter_changes_nothing_and_says_what_it_is(new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model(LLAMA, rank=16)
    info = model.get_info()
    assert (info.model_name, info.model_data.model_name, info.is_lora, info.lora_rank) == (LLAMA, LLAMA, True, 16)
    assert info.model_data.arch
    assert model.model_id == info.model_id
    data = supervised(LENGTHS)
    path = model.save_state("start").result(timeout=60).path
    reference = Reference(model_folder(LLAMA), live_server.checkpoint_folder(path))
    with reference.model.disable_adapter():
        base = reference.forward(data)
    assert worst(logprobs_of(model.forward(data, "cross_entropy").result(timeout=60)), base) <= WIRE


@pytest.mark.row(1, 12, 203, 206)
@pytest.mark.parametrize("name", FAMILY_OF)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
def test_losses_and_gradients_equal_peft_over_the_wire(name: str, new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model(name)
    # B starts at zero, and with it the gradient of A: one step first, so that every tensor has a gradient.
    step(model, supervised((20, 9), seed=5))
    start = model.save_state("start").result(timeout=60).path
    reference = Reference(model_folder(name), live_server.checkpoint_folder(start))
    before = adapter_weights(live_server.checkpoint_folder(start))
    for case, (loss_fn, config) in LOSS_CASES.items():
        data = batch_for(case, LENGTHS, seed=2)
        model.load_state(start).result(timeout=60)
        future = model.forward_backward(data, loss_fn, config)
        model.optim_step(GRADIENT_STEP).result(timeout=60)
        output = future.result(timeout=60)
        saved = model.save_state(f"after-{case}").result(timeout=60).path

        wanted = reference.backward(case, data)
        assert output.metrics["loss:sum"] == pytest.approx(wanted, rel=WIRE), case
        found = logprobs_of(output)
        assert worst(found, reference.forward(data)) <= WIRE, case
        assert numpy_loss(case, found, data) == pytest.approx(wanted, rel=WIRE), case
        after = adapter_weights(live_server.checkpoint_folder(saved))
        gradients = {key: before[key].astype(np.float64) - after[key] for key in before}
        assert distance(gradients, reference.gradients()) <= WIRE, case


@pytest.mark.row(203)
@pytest.mark.parametrize("case", RECORDED_CASES)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
def test_a_loss_over_recorded_sequences_equals_peft(case: str, new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model()
    step(model, supervised((20, 9), seed=5))
    sampler = model.save_weights_and_get_sampling_client(record_stability_info=True).result(timeout=60)
    prompt = [3, 14, 15, 9, 2, 6]
    # Away from the temperature that is trained at, and weights that move on: ratios on both sides of the cap.
    params = tinker.SamplingParams(max_tokens=24, temperature=1.3, seed=7, stop=[])
    response = sampler.sample(model_input(prompt), 4, params).result(timeout=60)
    step(model, supervised((20, 9), seed=6))
    start = model.save_state("start").result(timeout=60).path
    reference = Reference(model_folder(LLAMA), live_server.checkpoint_folder(start))
    before = adapter_weights(live_server.checkpoint_folder(start))

    loss_fn, config = RECORDED_CASES[case]
    data = sampled_datums(prompt, response)
    future = model.forward_backward(sampled_datums(prompt, response, logprobs=False), loss_fn, config)
    model.optim_step(GRADIENT_STEP).result(timeout=60)
    output = future.result(timeout=60)
    ratios = np.concatenate(
        [
            np.exp(lp - d.loss_fn_inputs["logprobs"].to_numpy())[len(prompt) - 1 :]
            for lp, d in zip(logprobs_of(output), data, strict=True)
        ]
    )
    cap = config.get("clip_high_threshold", 2.0)
    assert (ratios < 1).any()
    assert cap == 2.0 or (ratios > cap).any()

    wanted = reference.backward(case, data)
    assert output.metrics["loss:sum"] == pytest.approx(wanted, rel=WIRE)
    assert numpy_loss(case, logprobs_of(output), data) == pytest.approx(wanted, rel=WIRE)
    after = adapter_weights(live_server.checkpoint_folder(model.save_state("after").result(timeout=60).path))
    gradients = {key: before[key].astype(np.float64) - after[key] for key in before}
    assert distance(gradients, reference.gradients()) <= WIRE
    again = model.forward(data, loss_fn, config).result(timeout=60)
    assert len(again.loss_fn_outputs) == 4


@pytest.mark.row(37, 61, 205)
def test_adamw_with_every_option_equals_torch(new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model()
    start = model.save_state("start").result(timeout=60).path
    reference = Reference(model_folder(LLAMA), live_server.checkpoint_folder(start))
    torch_adam = torch.optim.AdamW(reference.parameters.values(), lr=5e-3, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    for number in range(4):
        data = supervised(LENGTHS, seed=number)
        output = model.forward_backward(data, "cross_entropy")
        metrics = model.optim_step(ADAM).result(timeout=60).metrics
        wanted = reference.backward("cross_entropy", data)
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters.values(), 0.5)
        torch_adam.step()
        torch_adam.zero_grad()
        assert float(norm) > 0.5, "the data must make clipping happen"
        assert output.result(timeout=60).metrics["loss:sum"] == pytest.approx(wanted, rel=WIRE)
        assert metrics is not None
        assert any(value == pytest.approx(float(norm), rel=WIRE) for value in metrics.values()), metrics
    data = supervised(LENGTHS, seed=99)
    found = logprobs_of(model.forward(data, "cross_entropy").result(timeout=60))
    assert worst(found, reference.forward(data)) <= WIRE
    saved = model.save_state("end").result(timeout=60).path
    assert distance(adapter_weights(live_server.checkpoint_folder(saved)), reference.weights()) <= WIRE


@pytest.mark.row(201)
def test_a_call_of_2100_datums_is_three_chunks_and_equals_the_small_ones(
    new_model: NewModel, live_server: LiveServer
) -> None:
    data = supervised([int(n) for n in np.random.default_rng(0).integers(2, 9, 2100)])
    large, small = new_model(), new_model()
    assert large.holder.get_client_config().fwdbwd_max_chunk_len == 1024
    whole = large.forward_backward(data, "cross_entropy")
    parts = [small.forward_backward(data[i : i + 300], "cross_entropy") for i in range(0, 2100, 300)]
    outputs = [part.result(timeout=120) for part in parts]
    result = whole.result(timeout=120)
    assert len(result.loss_fn_outputs) == 2100
    assert worst(logprobs_of(result), [lp for output in outputs for lp in logprobs_of(output)]) <= 1e-6
    assert result.metrics["loss:sum"] == pytest.approx(sum(o.metrics["loss:sum"] for o in outputs), rel=1e-6)
    assert result.metrics["loss:sum"] == pytest.approx(numpy_loss("cross_entropy", logprobs_of(result), data), rel=WIRE)
    saved = []
    for model in (large, small):
        model.optim_step(GRADIENT_STEP).result(timeout=60)
        path = model.save_state("after").result(timeout=60).path
        saved.append(adapter_weights(live_server.checkpoint_folder(path)))
    assert distance(*saved) <= WIRE


@pytest.mark.row(4, 15)
def test_forward_leaves_no_gradient_and_forward_backward_accumulates(
    new_model: NewModel, live_server: LiveServer
) -> None:
    one, other = new_model(), new_model()
    first, second = supervised((20, 30), seed=1), supervised((8,), seed=2)
    one.forward_backward(first, "cross_entropy")
    one.forward(supervised((40,), seed=3), "cross_entropy")
    one.forward_backward(second, "cross_entropy")
    step(other, first + second, GRADIENT_STEP)
    one.optim_step(GRADIENT_STEP)
    paths = [model.save_state("end").result(timeout=60).path for model in (one, other)]
    folders = [live_server.checkpoint_folder(path) for path in paths]
    assert distance(*map(adapter_weights, folders)) <= 1e-6


@pytest.mark.row(203)
def test_a_custom_loss_trains_as_the_same_loss_of_the_service(new_model: NewModel, live_server: LiveServer) -> None:
    data = supervised((20, 7), seed=4)

    def square(data: list[tinker.Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        loss = torch.stack([(lp**2).sum() for lp in logprobs]).sum()
        return loss, {"custom/positions": float(sum(len(lp) for lp in logprobs))}

    model = new_model()
    start = model.save_state("start").result(timeout=60).path
    reference = Reference(model_folder(LLAMA), live_server.checkpoint_folder(start))
    result = model.forward_backward_custom(data, square).result(timeout=60)
    model.optim_step(GRADIENT_STEP).result(timeout=60)
    wanted = torch.stack([(lp**2).sum() for lp in reference.target_logprobs(data)]).sum()
    wanted.backward()
    assert result.metrics["loss:sum"] == pytest.approx(wanted.item(), rel=WIRE)
    assert result.metrics["custom/positions"] == 27
    after = adapter_weights(live_server.checkpoint_folder(model.save_state("after").result(timeout=60).path))
    before = adapter_weights(live_server.checkpoint_folder(start))
    moved = {key: before[key].astype(np.float64) - after[key] for key in before}
    gradients = reference.gradients()
    # A of a fresh adapter has gradient zero; B carries all of it.
    assert max(float(np.abs(g).max()) for key, g in gradients.items() if "lora_A" in key) == 0
    named = [key for key in gradients if "lora_B" in key]
    assert distance({key: moved[key] for key in named}, {key: gradients[key] for key in named}) <= WIRE


@pytest.mark.row(1, 6)
@pytest.mark.parametrize("off", ["train_mlp", "train_attn", "train_unembed"])
def test_parts_that_are_not_to_be_trained_stay_as_they_are(
    off: str, new_model: NewModel, live_server: LiveServer
) -> None:
    part = {"train_mlp": "mlp", "train_attn": "self_attn", "train_unembed": "lm_head"}[off]
    model = new_model(**{off: False})
    step(model, supervised((20,)))
    saved = adapter_weights(live_server.checkpoint_folder(model.save_state("end").result(timeout=60).path))
    assert saved
    assert not [name for name in saved if part in name]


@pytest.mark.row(209)
def test_the_seed_decides_the_initial_weights(new_model: NewModel, live_server: LiveServer) -> None:
    paths = [new_model(seed=seed).save_state("start").result(timeout=60).path for seed in (3, 3, 4)]
    first, again, other = (adapter_weights(live_server.checkpoint_folder(path)) for path in paths)
    assert distance(first, again) == 0
    assert distance(other, first) > 0.1


@pytest.mark.row(12)
def test_experts_are_trained_and_routers_never(new_model: NewModel, live_server: LiveServer) -> None:
    model = new_model(MOE)
    step(model, supervised((40,)))
    saved = adapter_weights(live_server.checkpoint_folder(model.save_state("end").result(timeout=60).path))
    assert [name for name in saved if "experts" in name and np.abs(saved[name]).max() > 0]
    assert not [name for name in saved if name.split(".")[-3] == "gate"]
