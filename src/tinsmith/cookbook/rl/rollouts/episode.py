"""One episode: observation and action in turn, until the environment or a limit ends it."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import Any

from tinsmith import ModelInput
from tinsmith.cookbook.rl.environment import ActionExtra, Observation, StopCondition
from tinsmith.cookbook.rl.rollouts.env_errors import check_reward, check_step, of_environment, of_observation
from tinsmith.cookbook.rl.rollouts.limits import RolloutLimits
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rl.trajectories import EndReason, TokensWithLogprobs, Trajectory, Transition
from tinsmith.types.errors import invalid


@dataclass
class Episode:
    """An episode that is being played.

    Attributes:
        env: takes whole actions.
        policy: samples them.
        limits: how long it may go on.
        seed: of its actions.
        member: its place in the group, named in errors.
    """

    env: Any
    policy: Policy
    limits: RolloutLimits
    seed: int
    member: int = 0
    observation: Observation = field(default_factory=ModelInput.empty, init=False)
    stop: StopCondition | None = field(default=None, init=False)
    _transitions: list[Transition] = field(default_factory=list[Transition], init=False)

    async def begin(self) -> None:
        """Ask for the first observation.

        Raises:
            EnvError: the environment failed, or the observation is none.
        """
        with of_environment(self.env, "initial_observation()", self.member):
            first = await self.env.initial_observation()
            self.observation, self.stop = first if isinstance(first, tuple) else (first, None)
            _check_observation(self.observation)

    async def play(self, first: TokensWithLogprobs | None = None) -> Trajectory:
        """Play to the end.

        Args:
            first: the first action, where it was sampled for the whole group at once.

        Raises:
            EnvError: the environment failed.
        """
        while True:
            room = self._room()
            if isinstance(room, EndReason):
                return self._ended_by(room)
            action = first or await self._sample(room)
            first = None
            ended = await self._step(action)
            if ended is not None:
                return Trajectory(self._transitions, self.observation, ended)
            over = self._over()
            if over is not None:
                return self._ended_by(over)

    async def play_until(self, deadline: float | None, first: TokensWithLogprobs | None = None) -> Trajectory:
        """Play to the end, or until a moment of the loop's clock; what was played until then counts."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self.play(first)
        except TimeoutError:
            # A TimeoutError of the environment's own came as an EnvError: this one is the limit's.
            return self._ended_by(EndReason.MAX_SECONDS)

    def first_room(self) -> int | None:
        """Return how long the first action may be; None is up to the context, and 0 is not at all."""
        room = self._room()
        return 0 if isinstance(room, EndReason) else room

    def not_begun(self) -> Trajectory:
        """Return the trajectory of an episode whose time was up before its first action."""
        return self._ended_by(EndReason.MAX_SECONDS)

    async def close(self) -> None:
        """Let the environment go.

        Raises:
            EnvError: the environment failed.
        """
        close = getattr(self.env, "close", None)
        if close is not None:
            with of_environment(self.env, "close()", self.member):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing

    def _room(self) -> int | EndReason | None:
        """Return how long the next action may be, or which limit leaves no room for one."""
        read = self.observation.length
        sizes = {EndReason.CONTEXT: self.policy.context_length, EndReason.MAX_TOKENS: self.limits.max_trajectory_tokens}
        rooms = [self.limits.max_tokens] if self.limits.max_tokens is not None else []
        for reason, size in sizes.items():
            if size is not None:
                if size - read < 1:
                    return reason
                rooms.append(size - read)
        return min(rooms, default=None)

    async def _sample(self, room: int | None) -> TokensWithLogprobs:
        seed = derived_seed(self.seed, len(self._transitions))
        with of_observation(self.env, self.member):
            (action,) = await self.policy.sample(self.observation, self.stop, max_tokens=room, seed=seed)
        return action

    async def _step(self, action: TokensWithLogprobs) -> str | None:
        """Hand the action to the environment; return why the episode has ended, if it has."""
        with of_environment(self.env, f"step(), turn {len(self._transitions)}", self.member):
            extra: ActionExtra = {"stop_reason": action.stop_reason}
            # A copy: what an environment does to its list must not change what is trained.
            result = check_step(await self.env.step(list(action.tokens), extra=extra))
            if not result.episode_done:
                _check_observation(result.next_observation)
        self._transitions.append(
            Transition(
                self.observation,
                action.first(result.taken),
                float(result.reward),
                result.episode_done,
                result.metrics,
                result.logs,
                result.reward_parts,
            )
        )
        self.observation = result.next_observation
        if result.next_stop_condition is not None:
            self.stop = result.next_stop_condition
        return (result.end_reason or EndReason.DONE) if result.episode_done else None

    def _over(self) -> EndReason | None:
        """Return which limit on turns or tool calls is reached."""
        if self.limits.max_turns is not None and len(self._transitions) >= self.limits.max_turns:
            return EndReason.MAX_TURNS
        calls = sum(transition.metrics.get("tool_calls", 0) for transition in self._transitions)
        if self.limits.max_tool_calls is not None and calls > self.limits.max_tool_calls:
            return EndReason.MAX_TOOL_CALLS
        return None

    def _ended_by(self, reason: EndReason) -> Trajectory:
        ask = getattr(self.env, "reward_at_limit", None)
        reward = 0.0
        if ask is not None:
            with of_environment(self.env, "reward_at_limit()", self.member):
                reward = ask(str(reason))
                check_reward("reward_at_limit()", reward)
        return Trajectory(self._transitions, self.observation, reason, float(reward))


def _check_observation(observation: Any) -> None:
    if not isinstance(observation, ModelInput):
        raise invalid("observation", observation, "a ModelInput")
    if observation.length == 0:
        raise invalid("observation", "0 tokens", "at least one token for the policy to read")
