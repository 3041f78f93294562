"""Environments that speak in messages, and how they become environments that take tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinsmith import ModelInput
from tinsmith.cookbook.renderers import Message, Renderer
from tinsmith.cookbook.rl.environment import (
    Action,
    ActionExtra,
    Env,
    Logs,
    Metrics,
    Observation,
    StepResult,
    StopCondition,
)

Messages = Sequence[Message | Mapping[str, Any]]


@dataclass
class MessageStepResult:
    """What an environment of messages answers to a turn of the policy.

    Attributes:
        reward: of this turn.
        episode_done: whether the episode has ended.
        next_messages: the whole conversation that the policy reads next. The policy's own turns have to be in it as
            they were handed over: they carry the ids that were sampled.
        metrics, logs, reward_parts, end_reason: as in `StepResult`.
    """

    reward: float
    episode_done: bool
    next_messages: Messages = ()
    metrics: Metrics = field(default_factory=dict[str, float])
    logs: Logs = field(default_factory=dict[str, "str | int | float"])
    reward_parts: Metrics = field(default_factory=dict[str, float])
    end_reason: str | None = None


class MessageEnv(ABC):
    """An environment that reads and says messages.

    Attributes:
        tools: that the policy may call, as renderers take them; None where there is none.
    """

    tools: Sequence[Any] | None = None

    @abstractmethod
    async def initial_observation(self) -> Messages:
        """Return the conversation that the policy reads first."""

    @abstractmethod
    async def step(self, message: Message) -> MessageStepResult:
        """Take the policy's turn and return what comes of it."""

    def reward_at_limit(self, reason: str) -> float:
        """Return the reward of an episode that a limit ends; 0 unless it is overridden."""
        return 0.0

    def reward_of_cut_off(self, message: Message) -> float | None:
        """Return the reward of a turn that `max_tokens` cut off, which ends the episode.

        None, which is what it returns unless it is overridden, hands the turn to `step` like any other.
        """
        return None

    def close(self) -> Any:  # noqa: B027, most environments open nothing
        """Let go of what the environment opened; may be a coroutine."""


class EnvFromMessageEnv(Env):
    """An environment of messages as one of tokens.

    Args:
        renderer: between the two.
        env: speaks in messages.
    """

    def __init__(self, renderer: Renderer, env: MessageEnv) -> None:
        self.renderer = renderer
        self.env = env

    async def initial_observation(self) -> tuple[Observation, StopCondition]:
        """Return the rendered conversation, and what ends a turn."""
        return self._render(await self.env.initial_observation()), self.renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Parse the action, hand it over as a message, and render what comes of it."""
        message, _ = self.renderer.parse_response(action)
        if (extra or {}).get("stop_reason") == "length":
            reward = self.env.reward_of_cut_off(message)
            if reward is not None:
                return StepResult(reward, True, end_reason="max_tokens")
        result = await self.env.step(message)
        ended = result.episode_done
        return StepResult(
            result.reward,
            ended,
            ModelInput.empty() if ended else self._render(result.next_messages),
            metrics=result.metrics,
            logs=result.logs,
            reward_parts=result.reward_parts,
            end_reason=result.end_reason,
        )

    def reward_at_limit(self, reason: str) -> float:
        """Return what the environment says."""
        return self.env.reward_at_limit(reason)

    def close(self) -> Any:
        """Close the environment."""
        return self.env.close()

    def _render(self, messages: Messages) -> Observation:
        return self.renderer.build_generation_prompt(list(messages), tools=self.env.tools)
