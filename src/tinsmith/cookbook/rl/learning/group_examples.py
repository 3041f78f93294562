"""From the groups of a batch to its examples: advantages, constant groups, what is left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinsmith.cookbook.rl.learning.advantages import AdvantageFunction, compute_advantages, is_constant
from tinsmith.cookbook.rl.learning.examples import Example, examples_of
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup


@dataclass
class GroupExamples:
    """A group and what is learned from it.

    Attributes:
        group: the episodes.
        advantages: of each.
        constant: whether all its rewards are equal.
        examples: its sequences, each with the place of its episode in the group; none where the group is left out.
    """

    group: TrajectoryGroup
    advantages: list[float]
    constant: bool
    examples: list[tuple[int, Example]]


def group_examples(group: TrajectoryGroup, function: AdvantageFunction, *, remove_constant: bool) -> GroupExamples:
    """Return what is learned from a group.

    Args:
        group: the episodes.
        function: gives their advantages.
        remove_constant: leave the group out where all its rewards are equal: its advantages are zero, so forwarding
            it would teach nothing.

    Raises:
        UserError: the function gives no such advantages.
    """
    rewards = group.get_total_rewards()
    advantages = compute_advantages(rewards, function)
    constant = is_constant(rewards)
    found: list[tuple[int, Example]] = []
    if not (constant and remove_constant):
        for place, (trajectory, advantage) in enumerate(zip(group.trajectories, advantages, strict=True)):
            found += [(place, example) for example in examples_of(trajectory, advantage)]
    return GroupExamples(group, advantages, constant, found)


def examples_in(groups: Sequence[GroupExamples]) -> Iterator[Example]:
    """Yield the examples of groups, in order."""
    for group in groups:
        for _, example in group.examples:
            yield example
