"""Losses: positions that are switched off contribute exactly nothing, whatever stands there."""

from __future__ import annotations

import math

import pytest
import torch

from tinsmith.engine.training.losses import LOSS_FUNCTIONS, LossInputs
from tinsmith.types.facts.loss_table import LOSSES, resolve_config


def test_every_advertised_loss_has_its_function() -> None:
    assert LOSS_FUNCTIONS.keys() == LOSSES.keys()


@pytest.mark.row(4, 203)
@pytest.mark.parametrize("loss_fn", LOSS_FUNCTIONS)
def test_switched_off_positions_contribute_exactly_zero(loss_fn: str) -> None:
    extremes = torch.tensor([-math.inf, -1e30, 0.0, math.nan, -200.0], dtype=torch.float64)
    logprobs = torch.cat([extremes, torch.tensor([-1.5])]).requires_grad_()
    on = torch.tensor([0.0] * 5 + [1.0], dtype=torch.float64)
    sampled = torch.tensor([0.0, 500.0, -math.inf, 0.0, math.nan, -1.4], dtype=torch.float64)
    for inputs in (LossInputs(on, sampled, torch.ones(6)), LossInputs(torch.ones(6), sampled, on)):
        if loss_fn == "cross_entropy" and inputs.weights is not on:
            continue
        values = LOSS_FUNCTIONS[loss_fn](logprobs, inputs, resolve_config(loss_fn, None))
        (gradient,) = torch.autograd.grad(values.sum(), logprobs)
        assert values[:5].tolist() == [0.0] * 5
        assert gradient[:5].tolist() == [0.0] * 5
        assert values[5] != 0
        assert gradient[5] != 0


@pytest.mark.row(79, 203)
def test_clipping_bounds() -> None:
    logprobs = torch.log(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)).requires_grad_()
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    bounds = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}

    def value_and_gradient(loss_fn: str, sign: float) -> tuple[list[float], list[float]]:
        loss = LOSS_FUNCTIONS[loss_fn](logprobs, LossInputs(ones, zeros, sign * ones), resolve_config(loss_fn, bounds))
        (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
        return loss.tolist(), gradient.tolist()

    assert value_and_gradient("ppo", 1) == (pytest.approx([-0.5, -1, -1.2]), pytest.approx([-0.5, -1, 0]))
    assert value_and_gradient("ppo", -1) == (pytest.approx([0.8, 1, 2]), pytest.approx([0, 1, 2]))
    assert value_and_gradient("importance_sampling", 1) == (
        pytest.approx([-0.8, -1, -1.2]),
        pytest.approx([0, -1, 0]),
    )
    log_ratios = [math.log(0.5), 0, math.log(2)]
    clamped = [0.8, 1.0, 1.2]
    assert value_and_gradient("cispo", 1) == (
        pytest.approx([-c * lp for c, lp in zip(clamped, log_ratios, strict=True)]),
        pytest.approx([-0.8, -1, -1.2]),
    )


@pytest.mark.row(79, 203)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo"])
def test_a_ratio_that_overflows_is_clipped(loss_fn: str, dtype: torch.dtype) -> None:
    logprobs = torch.tensor([-1.0, -1.0, -1.0], dtype=dtype, requires_grad=True)
    sampled = torch.tensor([-1e4, -3e38, -1.0], dtype=dtype)
    ones = torch.ones(3, dtype=dtype)
    config = resolve_config(loss_fn, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2})
    values = LOSS_FUNCTIONS[loss_fn](logprobs, LossInputs(ones, sampled, ones), config)
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    bound, one = (1.2, 1.0) if loss_fn == "cispo" else (0.0, 1.0)
    assert values.tolist() == pytest.approx([1.2, 1.2, 1.0] if loss_fn == "cispo" else [-1.2, -1.2, -1.0])
    assert gradient.tolist() == pytest.approx([-bound, -bound, -one])


@pytest.mark.row(203)
def test_weights_scale_policy_losses() -> None:
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    inputs = LossInputs(torch.tensor([1.0, 0.25]), torch.tensor([-1.2, -1.2]), torch.tensor([1.0, 1.0]))
    plain = LossInputs(torch.ones(2), inputs.logprobs, inputs.advantages)
    for loss_fn in ("importance_sampling", "ppo", "cispo", "dro"):
        config = resolve_config(loss_fn, None)
        weighted = LOSS_FUNCTIONS[loss_fn](logprobs, inputs, config)
        torch.testing.assert_close(weighted, LOSS_FUNCTIONS[loss_fn](logprobs, plain, config) * inputs.weights)
