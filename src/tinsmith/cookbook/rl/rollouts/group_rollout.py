"""The episodes of one group, played side by side, and what is done where an environment fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.environment import EnvGroupBuilder
from tinsmith.cookbook.rl.environments.plain_env import whole_action_env
from tinsmith.cookbook.rl.rollouts.env_errors import EnvError, ErrorPolicy, check_reward, of_environment, of_observation
from tinsmith.cookbook.rl.rollouts.episode import Episode
from tinsmith.cookbook.rl.rollouts.limits import RolloutLimits
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rl.trajectories import (
    RolloutError,
    TokensWithLogprobs,
    Trajectory,
    TrajectoryGroup,
)

logger = logging.getLogger("tinsmith.cookbook")


@dataclass(frozen=True)
class RolloutSettings:
    """How groups are played.

    Attributes:
        renderer: parses actions for environments that take messages.
        limits: how long an episode may go on.
        errors: what is done where an environment fails.
    """

    renderer: Renderer
    limits: RolloutLimits
    errors: ErrorPolicy


async def do_group_rollout(
    builder: EnvGroupBuilder, policy: Policy, settings: RolloutSettings, seed: int
) -> TrajectoryGroup:
    """Play the episodes of a group.

    The same seed gives the same trajectories, whichever episode is quick and whichever slow, as long as the
    environments follow from their actions. Episodes that begin with the same observation get their first actions from
    one request: the service then reads the prompt once.

    Args:
        builder: makes the environments.
        policy: samples the actions.
        settings: limits, and what is done about errors.
        seed: of the group.

    Returns:
        The group; with `on_error="drop"` it may have fewer episodes than environments, or none.

    Raises:
        EnvError: an environment or the builder failed, and the settings do not go on.
        TinsmithError: the service failed.
    """
    errors: list[RolloutError] = []
    while True:
        attempt = len(errors)
        # The first repetition has the same seed: what failed by chance, a network for example, leaves no trace in the
        # run. Where it fails again the actions may be what it cannot bear, so others are drawn.
        drawn = seed if attempt < 2 else derived_seed(seed, "attempt", attempt)
        try:
            group = await _attempt(builder, policy, settings, drawn)
        except EnvError as error:
            if settings.errors.on_error == "drop":
                # `make_envs`, the group's rewards, or one of its players failed: there is no episode to go on with.
                _warn(error, "the batch goes on without this group")
                group = TrajectoryGroup([], [], [], tuple(builder.logging_tags()), policy.step, [error.told()])
            elif settings.errors.on_error == "retry" and attempt < settings.errors.retries:
                errors.append(error.told())
                _warn(error, "the group is played again")
                continue
            else:
                raise
        group.errors = errors + group.errors
        group.builder = builder
        return group


async def _attempt(builder: EnvGroupBuilder, policy: Policy, settings: RolloutSettings, seed: int) -> TrajectoryGroup:
    # Whatever happens, every environment is closed, and then the builder.
    async with AsyncExitStack() as afterwards:
        afterwards.push_async_callback(_clean_up, builder)
        with of_environment(builder, "make_envs()"):
            envs = list(await builder.make_envs())
            if not envs:
                raise ValueError("no environment, expected at least one")
            tags = tuple(builder.logging_tags())
            episodes = [
                Episode(whole_action_env(env, settings.renderer), policy, settings.limits, derived_seed(seed, i), i)
                for i, env in enumerate(envs)
            ]
        for episode in episodes:
            afterwards.push_async_callback(episode.close)
        if builder.plays_together:
            played = await _play_together(episodes, settings)
        else:
            played = await _play(episodes, settings, seed)
        errors = [result.told() for result in played if isinstance(result, EnvError)]
        kept = [(env, result) for env, result in zip(envs, played, strict=True) if isinstance(result, Trajectory)]
        if len(kept) < min(settings.errors.min_group_size, len(envs)) and errors:
            return TrajectoryGroup([], [], [], tags, policy.step, errors)
        trajectories = [trajectory for _, trajectory in kept]
        with of_environment(builder, "compute_group_rewards()"):
            given = await builder.compute_group_rewards(trajectories, [env for env, _ in kept])
            for reward, _ in given:
                check_reward("reward", reward)
            if len(given) != len(trajectories):
                raise ValueError(f"{len(given)} rewards, expected {len(trajectories)}, one for each episode")
        rewards = [float(reward) for reward, _ in given]
        return TrajectoryGroup(trajectories, rewards, [metrics for _, metrics in given], tags, policy.step, errors)


async def _clean_up(builder: EnvGroupBuilder) -> None:
    with of_environment(builder, "cleanup()"):
        await builder.cleanup()


async def _play(episodes: Sequence[Episode], settings: RolloutSettings, seed: int) -> list[Trajectory | EnvError]:
    """Return the trajectory of each episode, or with `drop` the error that it ended with."""
    clock = asyncio.get_running_loop().time
    limit = settings.limits.max_seconds
    began = clock()
    spent = [0.0] * len(episodes)

    async def begin(place: int) -> EnvError | Trajectory | None:
        try:
            async with asyncio.timeout(limit):
                await episodes[place].begin()
        except TimeoutError:
            return episodes[place].not_begun()
        except EnvError as error:
            return _dropped(error, settings)
        spent[place] = clock() - began
        return None

    async def play(place: int) -> Trajectory | EnvError:
        ended = begun[place]
        if ended is not None:
            return ended
        try:
            return await episodes[place].play_until(deadlines[place], firsts[place])
        except EnvError as error:
            return _dropped(error, settings)

    # All begin before any goes on, so that whether they share a prompt does not depend on who is quick. What an episode
    # waits for the others there is not of its own time.
    begun = await _gather([begin(place) for place in range(len(episodes))])
    deadlines = [None if limit is None else clock() + limit - used for used in spent]
    ready = [episode for episode, ended in zip(episodes, begun, strict=True) if ended is None]
    firsts = await _first_actions(ready, len(episodes), seed, limit)
    return await _gather([play(place) for place in range(len(episodes))])


async def _play_together(episodes: Sequence[Episode], settings: RolloutSettings) -> list[Trajectory]:
    """Return the trajectories of episodes that wait for one another; the first error ends them all."""
    limit = settings.limits.max_seconds
    deadline = None if limit is None else asyncio.get_running_loop().time() + limit

    async def play(episode: Episode) -> Trajectory:
        try:
            async with asyncio.timeout_at(deadline):
                await episode.begin()
        except TimeoutError:
            return episode.not_begun()
        return await episode.play_until(deadline)

    # Nobody waits for all to begin: the second player of a game begins with the first one's move.
    return await _gather([play(episode) for episode in episodes])


async def _first_actions(
    ready: Sequence[Episode], count: int, seed: int, limit: float | None
) -> Sequence[TokensWithLogprobs | None]:
    """Sample the first actions of a group in one request, where all its episodes begin alike; else None for each.

    Args:
        ready: the episodes that have begun.
        count: of all episodes. So many are sampled, those that failed included: an action is that of its place.
        seed: of the group.
        limit: seconds that it may take.
    """
    apart = [None] * count
    if len(ready) < 2 or ready[0].first_room() == 0:
        return apart
    lead = ready[0]
    if any((e.observation, e.stop) != (lead.observation, lead.stop) for e in ready[1:]):
        return apart
    try:
        async with asyncio.timeout(limit):
            with of_observation(lead.env, None):
                return await lead.policy.sample(
                    lead.observation,
                    lead.stop,
                    max_tokens=lead.first_room(),
                    seed=derived_seed(seed, "first"),
                    num_samples=count,
                )
    except TimeoutError:
        return apart  # each finds its time to be up


async def _gather(coroutines: Sequence[Any]) -> list[Any]:
    """Wait for all; where one raises, cancel the others and wait until they have ended."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as errors:
        # The first of them is the cause; those that were cancelled for it are not in here.
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    return [task.result() for task in tasks]


def _dropped(error: EnvError, settings: RolloutSettings) -> EnvError:
    if settings.errors.on_error != "drop":
        raise error
    _warn(error, "the group goes on without this episode")
    return error


def _warn(error: EnvError, consequence: str) -> None:
    cause = error.__cause__
    # Once per kind: a flaky environment must not fill the log; the metrics count every case.
    warn_once(f"env error {type(cause).__name__}", f"{error}; {consequence} (env/errors counts such cases)")
    logger.debug("an environment failed", exc_info=error)
