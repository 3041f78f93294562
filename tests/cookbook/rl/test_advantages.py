"""Advantages of groups, whatever their rewards."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.cookbook.rl import ADVANTAGES, compute_advantages
from tinsmith.cookbook.rl.learning.advantages import leave_one_out, mean_baseline, standardized

REWARDS = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=12)


@pytest.mark.row(84)
def test_the_mean_of_the_group_is_taken_away() -> None:
    assert mean_baseline([1.0, 1.0, -1.0, 0.0]) == pytest.approx([0.75, 0.75, -1.25, -0.25])


def test_standardized_is_numpys() -> None:
    rewards = np.array([1.0, 0.1, 0.0, 1.1, 0.4])
    assert standardized(list(rewards)) == pytest.approx((rewards - rewards.mean()) / rewards.std())


def test_leave_one_out_compares_with_the_others() -> None:
    rewards = [1.0, 0.0, 0.5, 0.25]
    expected = [reward - np.mean([*rewards[:i], *rewards[i + 1 :]]) for i, reward in enumerate(rewards)]
    assert leave_one_out(rewards) == pytest.approx(expected)


@pytest.mark.parametrize("name", ADVANTAGES)
@given(rewards=REWARDS)
def test_any_group_gives_finite_advantages_of_sum_zero(name: str, rewards: list[float]) -> None:
    advantages = compute_advantages(rewards, ADVANTAGES[name])
    assert len(advantages) == len(rewards)
    assert all(map(math.isfinite, advantages))
    assert sum(advantages) == pytest.approx(0, abs=1e-6 * max((abs(r) for r in rewards), default=0) + 1e-6)


@pytest.mark.parametrize("name", ADVANTAGES)
@given(reward=st.floats(-1e6, 1e6), size=st.integers(1, 9))
def test_equal_rewards_say_nothing(name: str, reward: float, size: int) -> None:
    assert compute_advantages([reward] * size, ADVANTAGES[name]) == pytest.approx([0.0] * size, abs=1e-9 * abs(reward))


@pytest.mark.parametrize(
    ("function", "told"),
    [(lambda rewards: [1.0], "2 finite numbers"), (lambda rewards: [math.nan] * 2, "2 finite numbers")],
)
def test_a_function_of_ones_own_is_checked(function: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        compute_advantages([0.0, 1.0], function)  # pyright: ignore[reportArgumentType]


def test_a_function_of_ones_own_is_taken() -> None:
    best = lambda rewards: [float(r == max(rewards)) for r in rewards]  # noqa: E731
    assert compute_advantages([0.0, 2.0, 1.0], best) == [0.0, 1.0, 0.0]
