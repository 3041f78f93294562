"""What rollouts leave behind: sampled actions, trajectories, and groups of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from tinsmith.cookbook.rl.environment import EnvGroupBuilder, Logs, Metrics, Observation


class EndReason(StrEnum):
    """Why an episode ended: the environment said so, or which limit was reached.

    An environment may give a reason of its own (`StepResult.end_reason`).
    """

    DONE = "done"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_SECONDS = "max_seconds"
    CONTEXT = "context"


@dataclass(frozen=True)
class TokensWithLogprobs:
    """A sampled action.

    Attributes:
        tokens: T ids as they were sampled, the stop token included.
        logprobs: T numbers in nats, of the distribution that was sampled from.
        stop_reason: `stop` at a stop condition, `length` where it was cut off.
        sequence_id: the service's name of the sampled sequence, for losses that refer to it; None where it gave none.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: Literal["stop", "length"] = "stop"
    sequence_id: str | None = None

    def first(self, count: int | None) -> TokensWithLogprobs:
        """Return the action without what follows its first `count` tokens; None leaves it whole."""
        if count is None or count >= len(self.tokens):
            return self
        return TokensWithLogprobs(self.tokens[:count], self.logprobs[:count], "stop", self.sequence_id)


@dataclass(frozen=True)
class Transition:
    """One step of an episode.

    Attributes:
        ob: what the policy read.
        ac: what it said.
        reward: what the environment gave for it.
        episode_done: whether that ended the episode.
        metrics, logs, reward_parts: of the step, as the environment gave them.
    """

    ob: Observation
    ac: TokensWithLogprobs
    reward: float
    episode_done: bool
    metrics: Metrics = field(default_factory=dict[str, float])
    logs: Logs = field(default_factory=dict[str, "str | int | float"])
    reward_parts: Metrics = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Attributes:
        transitions: its steps; none where a limit was reached before the first.
        final_ob: what the environment showed last.
        end_reason: why it ended: one of `EndReason`, or the environment's own word.
        limit_reward: what the environment gave for being ended by a limit; 0 otherwise.
    """

    transitions: list[Transition]
    final_ob: Observation
    end_reason: str = EndReason.DONE
    limit_reward: float = 0.0

    @property
    def reward(self) -> float:
        """The sum of the episode's rewards, without those that depend on its group."""
        return sum(transition.reward for transition in self.transitions) + self.limit_reward

    @property
    def action_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(len(transition.ac.tokens) for transition in self.transitions)


@dataclass(frozen=True)
class RolloutError:
    """An error of an environment that the run went on after.

    Attributes:
        error_type: name of the exception's class.
        error_message: what it said.
        member: which episode of the group; None where the whole group failed.
    """

    error_type: str
    error_message: str
    member: int | None = None


@dataclass
class TrajectoryGroup:
    """The episodes of one group.

    Attributes:
        trajectories: G episodes; fewer than the group had environments where some failed.
        final_rewards: G rewards that depend on the whole group.
        metrics: G times what was measured beside them.
        tags: names of the kinds of problem that this is.
        sampler_step: training steps that the weights had when they were sampled from.
        errors: of environments, also of attempts that were repeated.
        builder: what made its environments; None where nobody says. Equal groups may come from different ones.
    """

    trajectories: list[Trajectory]
    final_rewards: list[float]
    metrics: list[Metrics]
    tags: Sequence[str] = ()
    sampler_step: int = 0
    errors: list[RolloutError] = field(default_factory=list[RolloutError])
    builder: EnvGroupBuilder | None = field(default=None, compare=False, repr=False)

    def get_total_rewards(self) -> list[float]:
        """Return the G rewards, those of the steps and that of the group added up."""
        return [
            trajectory.reward + final for trajectory, final in zip(self.trajectories, self.final_rewards, strict=True)
        ]

    def end_reasons(self) -> Counter[str]:
        """Return how many episodes ended for each reason."""
        return Counter(str(trajectory.end_reason) for trajectory in self.trajectories)
