"""Which turn is credited with what: the episode's advantage, or that of what came after the turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.rl.test_examples import turn
from tinsmith import ModelInput
from tinsmith.cookbook.rl import Trajectory, TrajectoryGroup
from tinsmith.cookbook.rl.learning.advantages import mean_baseline, standardized
from tinsmith.cookbook.rl.learning.credit import rewards_to_go, turn_advantages
from tinsmith.cookbook.rl.learning.group_examples import group_examples

REWARDS = st.lists(st.lists(st.floats(-10, 10), max_size=5), min_size=1, max_size=6)


def group(
    *episodes: list[float], limits: list[float] | None = None, finals: list[float] | None = None
) -> TrajectoryGroup:
    extra = limits or [0.0] * len(episodes)
    found = [
        Trajectory([turn([1], [2], reward) for reward in rewards], ModelInput.empty(), limit_reward=limit)
        for rewards, limit in zip(episodes, extra, strict=True)
    ]
    return TrajectoryGroup(found, finals or [0.0] * len(found), [{}] * len(found))


def test_without_a_discount_every_turn_takes_its_episodes_advantage() -> None:
    assert turn_advantages(group([1, 0], [0], [0, 0, 0.5]), mean_baseline, None) == [[0.5] * 2, [-0.5], [0.0] * 3]


def test_a_turn_is_judged_by_what_came_after_it() -> None:
    found = turn_advantages(group([1, 0], [0, 2], [0]), mean_baseline, 0.5)
    # To go: 1, 0 and 1, 2 and 0; at the second turn the third episode is over.
    assert found == [
        [pytest.approx(1 / 3), pytest.approx(-2 / 3)],
        [pytest.approx(1 / 3), pytest.approx(4 / 3)],
        [pytest.approx(-2 / 3)],
    ]


def test_what_came_with_the_end_comes_with_the_last_turn() -> None:
    told = group([1, 0], [0], [], limits=[0.0, -1.0, -1.0], finals=[2.0, 0.0, 0.0])
    assert rewards_to_go(told, 0.5) == [[2.0, 2.0], [-1.0], []]
    assert [len(own) for own in turn_advantages(told, mean_baseline, 0.5)] == [2, 1, 0]


@given(episodes=REWARDS, discount=st.floats(0, 1), function=st.sampled_from([mean_baseline, standardized]))
def test_rewards_to_go_are_the_sums_that_they_say(episodes: list[list[float]], discount: float, function) -> None:
    told = group(*episodes)
    for rewards, own in zip(episodes, rewards_to_go(told, discount), strict=True):
        expected = [sum(r * discount**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
        assert own == pytest.approx(expected)
    found = turn_advantages(told, function, discount)
    assert [len(own) for own in found] == [len(rewards) for rewards in episodes]
    assert all(np.isfinite(own).all() for own in found)


def test_equal_rewards_at_other_turns_are_no_constant_group() -> None:
    early_and_late = group([1, 0], [0, 1])
    assert group_examples(early_and_late, mean_baseline, remove_constant=True).constant
    judged = group_examples(early_and_late, mean_baseline, 0.5, remove_constant=True)
    assert not judged.constant
    assert judged.examples
    assert group_examples(group([1, 0], [1, 0]), mean_baseline, 0.5, remove_constant=True).examples == []
