"""From the groups of a batch to its examples: advantages, constant groups, what is left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinsmith.cookbook.rl.learning.advantages import AdvantageFunction
from tinsmith.cookbook.rl.learning.credit import is_constant_group, turn_advantages
from tinsmith.cookbook.rl.learning.examples import Example, examples_of
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup


@dataclass
class GroupExamples:
    """A group and what is learned from it.

    Attributes:
        group: the episodes.
        advantages: of each turn of each.
        constant: whether nothing in it was better than anything else, so that it teaches nothing.
        examples: its sequences, each with the place of its episode in the group; none where the group is left out.
    """

    group: TrajectoryGroup
    advantages: list[list[float]]
    constant: bool
    examples: list[tuple[int, Example]]


def group_examples(
    group: TrajectoryGroup, function: AdvantageFunction, discount: float | None = None, *, remove_constant: bool
) -> GroupExamples:
    """Return what is learned from a group.

    Args:
        group: the episodes.
        function: gives their advantages.
        discount: of `turn_advantages`.
        remove_constant: leave a constant group out: its advantages are zero, so forwarding it would teach nothing.

    Raises:
        UserError: the function gives no such advantages.
    """
    advantages = turn_advantages(group, function, discount)
    constant = is_constant_group(group, discount)
    found: list[tuple[int, Example]] = []
    if not (constant and remove_constant):
        for place, (trajectory, own) in enumerate(zip(group.trajectories, advantages, strict=True)):
            found += [(place, example) for example in examples_of(trajectory, own)]
    return GroupExamples(group, advantages, constant, found)


def examples_in(groups: Sequence[GroupExamples]) -> Iterator[Example]:
    """Yield the examples of groups, in order."""
    for group in groups:
        for _, example in group.examples:
            yield example
