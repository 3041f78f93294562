"""Which turn of an episode is credited with what: the whole episode's advantage, or that of what came after."""

from __future__ import annotations

from tinsmith.cookbook.rl.learning.advantages import AdvantageFunction, compute_advantages, is_constant
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup


def turn_advantages(group: TrajectoryGroup, function: AdvantageFunction, discount: float | None) -> list[list[float]]:
    """Return the advantage of every turn of every episode.

    Without a discount each turn takes the advantage of its episode. With a discount gamma it is judged by its reward to
    go, r_t + gamma r_t+1 + gamma^2 r_t+2 + ... (Sutton and Barto 2018, equation 3.8), beside those of the other
    episodes at the same turn. An episode that has ended has nothing to come, so it counts there with 0.

    Args:
        group: G episodes.
        function: from G numbers to G advantages.
        discount: gamma; what depends on the whole group, or on a limit that was reached, comes with the last turn.

    Raises:
        UserError: the function gives no such advantages.
    """
    turns = [len(trajectory.transitions) for trajectory in group.trajectories]
    if discount is None:
        return [
            [advantage] * count
            for advantage, count in zip(compute_advantages(group.get_total_rewards(), function), turns, strict=True)
        ]
    returns = rewards_to_go(group, discount)
    longest = max(turns, default=0)
    by_turn = [
        compute_advantages([own[turn] if turn < len(own) else 0.0 for own in returns], function)
        for turn in range(longest)
    ]
    return [[by_turn[turn][place] for turn in range(count)] for place, count in enumerate(turns)]


def is_constant_group(group: TrajectoryGroup, discount: float | None) -> bool:
    """Return whether no episode of a group was better than another, at any turn that a discount tells apart."""
    if discount is None:
        return is_constant(group.get_total_rewards())
    returns = rewards_to_go(group, discount)
    return all(own == returns[0] for own in returns)


def rewards_to_go(group: TrajectoryGroup, discount: float) -> list[list[float]]:
    """Return, for every turn of every episode, its reward and the discounted ones after it."""
    found: list[list[float]] = []
    for trajectory, final in zip(group.trajectories, group.final_rewards, strict=True):
        rewards = [transition.reward for transition in trajectory.transitions]
        if rewards:
            rewards[-1] += trajectory.limit_reward + final
        to_go = 0.0
        backwards: list[float] = []
        for reward in reversed(rewards):
            to_go = reward + discount * to_go
            backwards.append(to_go)
        found.append(backwards[::-1])
    return found
