"""AdamW equals torch's, with every option; bad gradients change nothing."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine
from tinsmith.engine.adapters import optimizer
from tinsmith.engine.adapters.optimizer import adamw_step
from tinsmith.engine.adapters.slots import Pool, Slot
from tinsmith.engine.adapters.trained_adapters import VECTORS, Adapter
from tinsmith.engine.engine import Engine
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams, LoraConfig

CASES = {
    "defaults": AdamParams(),
    "decay": AdamParams(learning_rate=1e-2, weight_decay=0.1),
    "betas": AdamParams(learning_rate=1e-2, beta1=0.5, beta2=0.7, eps=1e-3),
    "clipped": AdamParams(learning_rate=1e-2, eps=1e-3, grad_clip_norm=0.5),
    "not clipped": AdamParams(learning_rate=1e-2, grad_clip_norm=1e9),
    "no momentum": AdamParams(learning_rate=1e-2, beta1=0.0, beta2=0.0, eps=1e-8),
}


@pytest.fixture
def adapter() -> tuple[Engine, Adapter]:
    engine = load_engine(checkpoint("llama"), dtype="float64")
    engine.create_model("a", LoraConfig(rank=8, seed=1))
    return engine, engine.adapters.get("a")


def add_gradient(adapter: Adapter, gradient: torch.Tensor) -> None:
    adapter.grad.add_(gradient)
    adapter.has_gradients = True


@pytest.mark.row(61, 205)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch_adamw(adapter: tuple[Engine, Adapter], name: str) -> None:
    engine, a = adapter
    params = CASES[name]
    weight = torch.nn.Parameter(a.master.clone())
    reference = torch.optim.AdamW(
        [weight],
        lr=params.learning_rate,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        weight_decay=params.weight_decay,
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        add_gradient(a, gradient)
        weight.grad = gradient.clone()
        if params.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_([weight], params.grad_clip_norm)
        reference.step()
        metrics = engine.optim_step("a", params)
        torch.testing.assert_close(a.master, weight.detach(), rtol=1e-9, atol=1e-12)
        assert metrics["grad_norm"] == pytest.approx(gradient.norm().item())
        assert metrics["adam_step"] == step
        assert "step" not in metrics  # would overwrite the batch number in the rows of the official recipes
    assert torch.equal(a.slot.flat, a.master)


def written_out(vectors: list[Tensor], params: AdamParams, step: int) -> list[Tensor]:
    """Master, gradient and moments after a step, in float64: Loshchilov & Hutter 2019, algorithm 2."""
    master, grad, first, second = (vector.double() for vector in vectors)
    if params.grad_clip_norm:
        grad = grad * min(1.0, params.grad_clip_norm / (float(grad.norm()) + 1e-6))
    first = params.beta1 * first + (1 - params.beta1) * grad
    second = params.beta2 * second + (1 - params.beta2) * grad**2
    of_first, of_second = first / (1 - params.beta1**step), second / (1 - params.beta2**step)
    change = torch.where(of_first == 0, 0, of_first / (of_second.sqrt() + params.eps))
    master = master * (1 - params.learning_rate * params.weight_decay) - params.learning_rate * change
    return [master, torch.zeros_like(grad), first, second]


@pytest.mark.row(61, 205)
@given(
    params=st.builds(
        AdamParams,
        learning_rate=st.sampled_from([0.0, 1e-6, 1e-3, 0.5]),
        beta1=st.sampled_from([0.0, 0.9, 0.95, 1 - 1e-6]),
        beta2=st.sampled_from([0.0, 0.95, 0.999, 1 - 1e-9]),
        eps=st.sampled_from([0.0, 1e-12, 1e-8, 1e-1]),
        weight_decay=st.sampled_from([0.0, 0.1, 1.5]),
        grad_clip_norm=st.sampled_from([0.0, 1e-3, 1e3]),
    ),
    size=st.integers(1, 10_000),
    taken=st.integers(0, 100_000),
    magnitude=st.sampled_from([1e-12, 1e-4, 1.0, 1e6]),
    seed=st.integers(0, 100),
)
def test_in_float32_it_is_what_the_paper_says_with_the_same_bits_on_any_number_of_threads(
    params: AdamParams, size: int, taken: int, magnitude: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = [torch.randn(size, generator=generator) for _ in VECTORS]
    first[1] *= magnitude
    first[1][:: seed % 3 + 1] = 0
    # As a run has them by then: nothing, or moments of such gradients.
    first[2] *= magnitude * (taken > 0)
    first[3] = first[3].square() * magnitude**2 * (taken > 0)
    found: list[list[Tensor]] = []
    threads = torch.get_num_threads()
    for number in (1, 2, 3):
        slot = Slot(cast(Pool, None), 1, 0, host=torch.empty(size))
        adapter = Adapter("m", LoraConfig(rank=1), slot, *[vector.clone() for vector in first], taken, True)
        try:
            torch.set_num_threads(number)
            adamw_step(adapter, params)
        finally:
            torch.set_num_threads(threads)
        assert adapter.step == taken + 1
        assert torch.equal(slot.flat, adapter.master)
        found.append([getattr(adapter, name) for name in VECTORS])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))
    for name, ours, wanted in zip(VECTORS, found[0], written_out(first, params, taken + 1), strict=True):
        close = torch.isclose(ours.double(), wanted, rtol=2e-6, atol=2e-6 * float(wanted.abs().max()))
        assert close.all(), name


@pytest.mark.row(205)
@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-18, 1e-6, 1.0, 1e15, 1e25])
@pytest.mark.parametrize("size", [1, 1024, 70_001])
def test_the_norm_is_that_of_float64_whatever_the_magnitude(magnitude: float, size: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0)) * magnitude
    assert optimizer._norm(vector) == pytest.approx(float(vector.double().norm()), rel=1e-6, abs=0.0)


@pytest.mark.row(205)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite(adapter: tuple[Engine, Adapter], bad: float) -> None:
    engine, a = adapter
    before = a.master.clone()
    gradient = torch.ones_like(a.grad)
    gradient[7] = bad
    add_gradient(a, gradient)
    with pytest.raises(UserError, match=r"optim_step: got gradients with norm (nan|inf)"):
        engine.optim_step("a", AdamParams())
    assert torch.equal(a.master, before)
    assert a.step == 0
    assert not a.grad.any()
    assert not a.exp_avg.any()


@pytest.mark.row(205)
def test_squares_that_overflow_are_refused_instead_of_freezing_the_run() -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8, seed=1))
    a = engine.adapters.get("a")
    before = a.master.clone()
    huge = torch.full_like(a.grad, 1e25)
    add_gradient(a, huge)
    with pytest.raises(
        UserError, match=r"optim_step: got gradients with norm .*e\+\d+, expected at most 1\.8.*e\+19 \(or g"
    ):
        engine.optim_step("a", AdamParams())
    assert a.step == 0
    assert torch.equal(a.master, before)
    assert not any(x.any() for x in (a.grad, a.exp_avg, a.exp_avg_sq))
    # Clipped they are as good as others.
    add_gradient(a, huge)
    engine.optim_step("a", AdamParams(learning_rate=1e-2, grad_clip_norm=1.0))
    assert a.exp_avg_sq.isfinite().all()
    assert torch.equal(a.exp_avg_sq > 0, torch.ones_like(before, dtype=torch.bool))
    moved = a.master.clone()
    add_gradient(a, torch.ones_like(a.grad))
    engine.optim_step("a", AdamParams(learning_rate=1e-2))
    assert not torch.equal(a.master, moved)


@pytest.mark.row(205)
@pytest.mark.parametrize(
    "params",
    [AdamParams(learning_rate=3e38), AdamParams(learning_rate=1e30, weight_decay=1e30)],
)
def test_a_step_that_no_number_can_hold_changes_nothing(params: AdamParams) -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8, seed=1))
    a = engine.adapters.get("a")
    before = a.master.clone()
    add_gradient(a, torch.ones_like(a.grad))
    with pytest.raises(
        UserError, match=r"optim_step: got learning_rate .*; the gradients were cleared, the weights stay"
    ):
        engine.optim_step("a", params)
    assert (a.step, a.has_gradients) == (0, False)
    assert torch.equal(a.master, before)
    assert not a.exp_avg.any()


def test_weights_without_gradient_stay_exactly_zero_even_without_eps(adapter: tuple[Engine, Adapter]) -> None:
    engine, a = adapter
    gradient = torch.ones_like(a.grad)
    gradient[::2] = 0
    a.master.zero_()
    add_gradient(a, gradient)
    engine.optim_step("a", AdamParams(learning_rate=0.1, eps=0.0, weight_decay=0.1))
    assert not a.master[::2].any()
    assert torch.allclose(a.master[1::2], torch.tensor(-0.1, dtype=torch.float64))


@pytest.mark.row(205)
def test_parameters_out_of_range_are_refused(adapter: tuple[Engine, Adapter]) -> None:
    engine, _ = adapter
    with pytest.raises(UserError, match=r"adam_params.beta1: got 1.0, expected"):
        engine.optim_step("a", AdamParams(beta1=1.0))
