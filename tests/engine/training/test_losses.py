"""Losses: positions that are switched off contribute exactly nothing, whatever stands there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from tests.support.examples import examples
from tinsmith.engine.training.losses import LOSS_FUNCTIONS, LossInputs
from tinsmith.engine.training.paired_losses import PAIRED_LOSS_FUNCTIONS
from tinsmith.types.facts.loss_table import LOSSES, resolve_config


def inputs_of(
    weights: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    ratio_mask: Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> LossInputs:
    """Inputs of one row, or of the rows given, whose ratio is the mean of the positions that train."""
    trains = (weights != 0) & (advantages != 0)
    mask = trains.to(logprobs.dtype) if ratio_mask is None else ratio_mask
    places = torch.tensor(rows or [0] * len(weights))
    return LossInputs(weights, logprobs, advantages, mask, torch.zeros_like(logprobs), places)


def run(loss_fn: str, logprobs: Tensor, inputs: LossInputs, **config: float) -> tuple[list[float], list[float]]:
    """Return the values and the gradient."""
    leaf = logprobs.detach().requires_grad_()
    values = LOSS_FUNCTIONS[loss_fn](leaf, inputs, resolve_config(loss_fn, config))
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.tolist(), gradient.tolist()


def test_every_advertised_loss_has_its_function() -> None:
    assert LOSS_FUNCTIONS.keys() | PAIRED_LOSS_FUNCTIONS.keys() == LOSSES.keys()
    assert {name for name, spec in LOSSES.items() if spec.paired} == PAIRED_LOSS_FUNCTIONS.keys()


@pytest.mark.row(4, 203)
@pytest.mark.parametrize("loss_fn", LOSS_FUNCTIONS)
def test_switched_off_positions_contribute_exactly_zero(loss_fn: str) -> None:
    extremes = torch.tensor([-math.inf, -1e30, 0.0, math.nan, -200.0], dtype=torch.float64)
    logprobs = torch.cat([extremes, torch.tensor([-1.5])])
    on = torch.tensor([0.0] * 5 + [1.0], dtype=torch.float64)
    sampled = torch.tensor([0.0, 500.0, -math.inf, 0.0, math.nan, -1.4], dtype=torch.float64)
    for inputs in (inputs_of(on, sampled, torch.ones(6)), inputs_of(torch.ones(6), sampled, on)):
        if loss_fn == "cross_entropy" and inputs.weights is not on:
            continue
        values, gradient = run(loss_fn, logprobs, inputs)
        assert values[:5] == gradient[:5] == [0.0] * 5
        assert values[5] != 0
        assert gradient[5] != 0


@pytest.mark.row(79, 203)
def test_clipping_bounds() -> None:
    logprobs = torch.log(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def value_and_gradient(loss_fn: str, sign: float) -> tuple[list[float], list[float]]:
        inputs = inputs_of(ones, zeros, sign * ones)
        return run(loss_fn, logprobs, inputs, clip_low_threshold=0.8, clip_high_threshold=1.2)

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
    logprobs = torch.tensor([-1.0, -1.0, -1.0], dtype=dtype)
    sampled = torch.tensor([-1e4, -3e38, -1.0], dtype=dtype)
    ones = torch.ones(3, dtype=dtype)
    bounds = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    values, gradient = run(loss_fn, logprobs, inputs_of(ones, sampled, ones), **bounds)
    bound, one = (1.2, 1.0) if loss_fn == "cispo" else (0.0, 1.0)
    assert values == pytest.approx([1.2, 1.2, 1.0] if loss_fn == "cispo" else [-1.2, -1.2, -1.0])
    assert gradient == pytest.approx([-bound, -bound, -one])


@pytest.mark.row(203)
def test_weights_scale_policy_losses() -> None:
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    weights, sampled, ones = torch.tensor([1.0, 0.25]), torch.tensor([-1.2, -1.2]), torch.tensor([1.0, 1.0])
    for loss_fn in LOSS_FUNCTIONS.keys() - {"cross_entropy"}:
        config = resolve_config(loss_fn, None)
        weighted = LOSS_FUNCTIONS[loss_fn](logprobs, inputs_of(weights, sampled, ones), config)
        plain = LOSS_FUNCTIONS[loss_fn](logprobs, inputs_of(torch.ones(2), sampled, ones), config)
        torch.testing.assert_close(weighted, plain * weights)


# -- gspo -------------------------------------------------------------------------------------------------------------


def naive_gspo(lp: Sequence[float], q: Sequence[float], a: Sequence[float], mask: Sequence[float]) -> list[float]:
    """The values of one row, as the protocol reference has them, position by position."""
    masked = [x - y for x, y, m in zip(lp, q, mask, strict=True) if m]
    ratio = math.exp(sum(masked) / len(masked)) if masked else 1.0
    return [-min(ratio * each, min(max(ratio, 0.8), 1.2) * each) for each in a]


def naive_gspo_gradient(values: Sequence[float], a: Sequence[float], lp_q: float) -> list[float]:
    """Its gradient: a position's own value where no bound has taken over, else 0."""
    ratio = math.exp(lp_q)
    free = [(ratio < 1.2 if each > 0 else ratio > 0.8) for each in a]
    return [value if here else 0.0 for value, here in zip(values, free, strict=True)]


@st.composite
def _rows_of_positions(draw: st.DrawFn) -> list[list[tuple[float, float, float, float]]]:
    position = st.tuples(
        st.floats(-4, 0), st.floats(-4, 0), st.sampled_from([-1.5, 0.0, 0.0, 2.0]), st.sampled_from([0.0, 1.0, 0.5])
    )
    return draw(st.lists(st.lists(position, min_size=1, max_size=6), min_size=1, max_size=4))


@pytest.mark.row(203)
@examples(60)
@given(_rows_of_positions())
def test_gspo_is_its_formula_row_by_row(rows: list[list[tuple[float, float, float, float]]]) -> None:
    lp, q, a, mask = (torch.tensor([p[i] for row in rows for p in row], dtype=torch.float64) for i in range(4))
    place = [i for i, row in enumerate(rows) for _ in row]
    values, gradient = run("gspo", lp, inputs_of(torch.ones(len(lp)), q, a, mask, place))
    wanted, wanted_gradient = [], []
    for row in rows:
        columns = [list(column) for column in zip(*row, strict=True)]
        found = naive_gspo(*columns)
        masked = [x - y for x, y, _, m in row if m]
        wanted += found
        wanted_gradient += naive_gspo_gradient(found, columns[2], sum(masked) / len(masked) if masked else 0.0)
    assert values == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    near_a_bound = np.isclose(np.abs(wanted), 0.8 * np.abs(a)) | np.isclose(np.abs(wanted), 1.2 * np.abs(a))
    for found, expected, near in zip(gradient, wanted_gradient, near_a_bound, strict=True):
        assert near or found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    for value, slope, advantage in zip(values, gradient, a.tolist(), strict=True):
        assert advantage != 0 or value == slope == 0.0


@pytest.mark.row(203)
def test_gspo_without_a_position_in_the_mask_has_ratio_one_and_touches_no_other_row() -> None:
    lp, q = torch.tensor([-1.0, -2.0, -1.0]).double(), torch.tensor([-3.0, -3.0, -1.1]).double()
    inputs = inputs_of(torch.ones(3), q, torch.ones(3), torch.tensor([0.0, 0.0, 1.0]), [0, 0, 1])
    values, gradient = run("gspo", lp, inputs)
    assert values == pytest.approx([-1, -1, -math.exp(0.1)])
    assert gradient == pytest.approx(values)


@pytest.mark.row(79, 203)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sequence_ratio_that_overflows_is_clipped(dtype: torch.dtype) -> None:
    lp, ones = torch.tensor([-1.0, -1.0], dtype=dtype), torch.ones(2, dtype=dtype)
    values, gradient = run("gspo", lp, inputs_of(ones, torch.tensor([-1e4, -3e38], dtype=dtype), ones))
    assert values == pytest.approx([-1.2, -1.2])
    assert gradient == [0.0, 0.0]
    values, gradient = run("gspo", -1e4 * ones, inputs_of(ones, -ones, -ones))
    assert (values, gradient) == (pytest.approx([0.8, 0.8]), [0.0, 0.0])


# -- stable_reinforce -------------------------------------------------------------------------------------------------


@pytest.mark.row(203)
@examples(60)
@given(
    st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0), st.sampled_from([-1.5, 0.0, 2.0])), min_size=1, max_size=8),
    st.floats(0, 1),
    st.floats(1, 5),
)
def test_stable_reinforce_is_its_formula(
    positions: list[tuple[float, float, float]], kl_coeff: float, cap: float
) -> None:
    lp, q, a = (torch.tensor([p[i] for p in positions], dtype=torch.float64) for i in range(3))
    inputs = inputs_of(torch.ones(len(lp)), q, a)
    values, gradient = run("stable_reinforce", lp, inputs, kl_coeff=kl_coeff, clip_high_threshold=cap)
    for value, slope, (x, y, advantage) in zip(values, gradient, positions, strict=True):
        ratio, weight = math.exp(x - y), min(math.exp(x - y), cap)
        # Beyond the cap: the tangent of r - 1 - log r there, as a function of log r.
        penalty = ratio - 1 - (x - y) if ratio <= cap else cap - 1 - math.log(cap) + (cap - 1) * (x - y - math.log(cap))
        on = advantage != 0
        assert value == pytest.approx(on * (-weight * x * advantage + kl_coeff * penalty), rel=1e-9, abs=1e-12)
        assert slope == pytest.approx(on * (-weight * advantage + kl_coeff * (weight - 1)), rel=1e-9, abs=1e-12)


@pytest.mark.row(203)
def test_the_penalty_of_stable_reinforce_estimates_the_kl_to_the_recorded_policy() -> None:
    rng = np.random.default_rng(0)
    recorded, current = (torch.tensor(rng.normal(size=6)).log_softmax(0) for _ in range(2))
    # Advantages of +1 and -1 with equal parts of the penalty: the policy's part cancels.
    ones = torch.ones(6, dtype=torch.float64)
    config = {"kl_coeff": 2.0, "clip_high_threshold": 1e6}
    signs = (run("stable_reinforce", current, inputs_of(ones, recorded, sign * ones), **config) for sign in (1, -1))
    plus, minus = (torch.tensor(values, dtype=torch.float64) for values, _ in signs)
    expected = float((recorded.exp() * (plus + minus) / 2).sum())
    assert expected == pytest.approx(2.0 * float((recorded.exp() * (recorded - current)).sum()), rel=1e-9)


@pytest.mark.row(79, 203)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable_reinforce_stays_bounded_where_ratios_overflow_or_vanish(dtype: torch.dtype) -> None:
    lp = torch.tensor([-1.0, -1.0, -1e4, -1.0], dtype=dtype)
    sampled = torch.tensor([-1e4, -1e30, -1.0, -1.0], dtype=dtype)
    for sign in (1.0, -1.0):
        advantages = sign * torch.ones(4, dtype=dtype)
        values, gradient = run("stable_reinforce", lp, inputs_of(torch.ones(4), sampled, advantages), kl_coeff=0.1)
        assert all(math.isfinite(value) for value in values)
        assert gradient == pytest.approx([-2 * sign + 0.1, -2 * sign + 0.1, -0.1, -sign])
