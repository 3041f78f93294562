"""What the episodes of a batch, or of an evaluation, were like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev

from tinsmith.cookbook.rl.learning.advantages import is_constant
from tinsmith.cookbook.rl.trajectories import Trajectory, TrajectoryGroup


def env_metrics(groups: Sequence[TrajectoryGroup], prefix: str = "env") -> dict[str, float]:
    """Return the numbers of groups, those of each tag behind it.

    Args:
        groups: finished.
        prefix: what the names begin with.

    Returns:
        Under `PREFIX/`: `reward` (mean), `reward_std`, `reward/PART`, `turns`, `action_tokens` and `observed_tokens`
        of an episode, `end/REASON` (share), what environments and groups measured (mean over those that did), and
        `constant_reward_share` of the groups; with tags also `PREFIX/TAG/reward` and what was measured there.
    """
    found = _numbers(groups, prefix)
    # An episode alone has nothing to be compared with.
    compared = [group for group in groups if len(group.trajectories) > 1]
    if compared:
        constant = [is_constant(group.get_total_rewards()) for group in compared]
        found[f"{prefix}/constant_reward_share"] = sum(constant) / len(compared)
    errors = sum(len(group.errors) for group in groups)
    if errors:
        found[f"{prefix}/errors"] = errors
        found[f"{prefix}/groups_lost"] = sum(not group.trajectories for group in groups)
    by_tag: defaultdict[str, list[TrajectoryGroup]] = defaultdict(list)
    for group in groups:
        for tag in group.tags:
            by_tag[tag].append(group)
    # Where every group has the same tag, its numbers are those above.
    for tag, tagged in by_tag.items():
        if len(tagged) < len(groups):
            found |= _measured(tagged, f"{prefix}/{tag}")
    return found


def _numbers(groups: Sequence[TrajectoryGroup], prefix: str) -> dict[str, float]:
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = [reward for group in groups for reward in group.get_total_rewards()]
    if not trajectories:
        return {f"{prefix}/episodes": 0}
    reasons = [str(trajectory.end_reason) for trajectory in trajectories]
    return {
        **_measured(groups, prefix),
        f"{prefix}/reward_std": pstdev(rewards),
        f"{prefix}/episodes": len(trajectories),
        f"{prefix}/turns": fmean(len(trajectory.transitions) for trajectory in trajectories),
        f"{prefix}/action_tokens": fmean(trajectory.action_tokens for trajectory in trajectories),
        f"{prefix}/observed_tokens": fmean(_observed_tokens(trajectory) for trajectory in trajectories),
        **{f"{prefix}/end/{reason}": reasons.count(reason) / len(reasons) for reason in sorted(set(reasons))},
    }


def _measured(groups: Sequence[TrajectoryGroup], prefix: str) -> dict[str, float]:
    """Return the mean reward, its parts, and the means of what environments measured."""
    rewards: list[float] = []
    parts: defaultdict[str, list[float]] = defaultdict(list)
    measured: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        rewards += group.get_total_rewards()
        for trajectory, of_group in zip(group.trajectories, group.metrics, strict=True):
            for name, value in _summed(t.reward_parts for t in trajectory.transitions).items():
                parts[name].append(value)
            for name, value in {**_last(t.metrics for t in trajectory.transitions), **of_group}.items():
                measured[name].append(value)
    if not rewards:
        return {}
    return {
        f"{prefix}/reward": fmean(rewards),
        **{f"{prefix}/reward/{name}": sum(values) / len(rewards) for name, values in parts.items()},
        **{f"{prefix}/{name}": fmean(values) for name, values in measured.items()},
    }


def _summed(steps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for step in steps:
        for name, value in step.items():
            found[name] += value
    return dict(found)


def _last(steps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return what was measured in an episode: its tool calls added up, of all else the last value."""
    found: dict[str, float] = {}
    for step in steps:
        for name, value in step.items():
            found[name] = found.get(name, 0.0) + value if name == "tool_calls" else float(value)
    return found


def _observed_tokens(trajectory: Trajectory) -> int:
    """Return how many tokens the policy read that it had not said: what the environment added over all turns."""
    if not trajectory.transitions:
        return 0
    last = trajectory.transitions[-1]
    said_before = trajectory.action_tokens - len(last.ac.tokens)
    return max(0, last.ob.length - said_before)
