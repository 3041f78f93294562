"""What an environment is: observations, actions, steps, groups of environments, and data sets of groups.

An environment is used once: it is made, plays one episode, and is let go. Groups of environments that begin alike are
what group-relative advantages compare (Shao et al. 2024, arXiv:2402.03300, section 4.1), or the players of one game.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from tinsmith import ModelInput

if TYPE_CHECKING:
    from tinsmith.cookbook.rl.trajectories import Trajectory
    from tinsmith.cookbook.training import ModelSetup

# What the policy reads before it acts: all tokens of the episode so far, or as many as the environment shows.
Observation = ModelInput
# What it says: sampled token ids, as they were sampled.
Action = list[int]
# What ends an action: texts or token ids.
StopCondition = list[str] | list[int]
Metrics = Mapping[str, float]
Logs = Mapping[str, str | int | float]


class ActionExtra(TypedDict, total=False):
    """What else is known of an action.

    `stop_reason` is `stop` where a stop condition ended it, `length` where it was cut off.
    """

    stop_reason: Literal["stop", "length"]


@dataclass
class StepResult:
    """What an environment answers to an action.

    Attributes:
        reward: of this step; the rewards of an episode are added up.
        episode_done: whether the episode has ended.
        next_observation: what the policy reads next; not looked at after the end.
        next_stop_condition: what ends the next action; None leaves it as it was.
        metrics: numbers whose means are logged as `env/NAME`, over the episodes that have them. `tool_calls` counts
            towards the limit of that name.
        logs: facts for the transcript.
        reward_parts: what the reward is made of, by name; shown in the transcript and logged as `env/reward/NAME`.
        end_reason: why the episode has ended, where the environment knows better than `done`.
        taken: how many tokens of the action count; None is all. The rest was sampled after the point at which the
            environment had something to say, and is dropped.
    """

    reward: float
    episode_done: bool
    next_observation: Observation = field(default_factory=ModelInput.empty)
    next_stop_condition: StopCondition | None = None
    metrics: Metrics = field(default_factory=dict[str, float])
    logs: Logs = field(default_factory=dict[str, "str | int | float"])
    reward_parts: Mapping[str, float] = field(default_factory=dict[str, float])
    end_reason: str | None = None
    taken: int | None = None


class Env(ABC):
    """An environment; there are two ways to write one.

    With `async def`, it is handed whole actions:

        async def initial_observation(self) -> tuple[Observation, StopCondition]
        async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult

    With plain `def`, it is handed one token at a time, and returns the tokens to append, the reward, and whether the
    episode is over:

        def initial_observation(self) -> list[int]
        def step(self, action: int) -> tuple[list[int], float, bool]

    The plain form with `action_level = "message"` is handed each sampled turn as a whole, as a message
    `{"role": "assistant", "content": ...}`.

    Rollouts ask an object for these two methods only; it need not be a subclass.
    """

    # Of the plain form only.
    action_level: Literal["token", "message"] = "token"

    @abstractmethod
    def initial_observation(self) -> Any:
        """Return what the policy reads first."""

    @abstractmethod
    def step(self, action: Any) -> Any:
        """Take an action and return what comes of it."""

    def reward_at_limit(self, reason: str) -> float:
        """Return the reward of an episode that a limit ends before the environment does; 0 unless it is overridden.

        Args:
            reason: which limit, one of `EndReason`.
        """
        return 0.0

    def close(self) -> Any:  # noqa: B027, most environments open nothing
        """Let go of what the environment opened; may be a coroutine. Called when its group has ended, however."""


class EnvGroupBuilder(ABC):
    """Makes the environments of one group, as often as it is asked: a group that failed may be tried again.

    Whatever it draws at random has to follow from its own seed, so that a run can be repeated.

    Attributes:
        plays_together: whether its environments wait for one another, as the players of one game do. Each then begins
            as soon as it can, and one that fails ends the whole group, since the others would wait for it in vain.
    """

    plays_together: bool = False

    @abstractmethod
    async def make_envs(self) -> Sequence[Any]:
        """Return new environments, one for each episode of the group."""

    async def compute_group_rewards(
        self, trajectories: list[Trajectory], envs: Sequence[Any]
    ) -> list[tuple[float, Metrics]]:
        """Return a further reward and metrics for each episode, for which all episodes of the group may be looked at.

        Args:
            trajectories: of the episodes that came to an end, in the order of their environments.
            envs: of those episodes.
        """
        return [(0.0, {}) for _ in trajectories]

    async def cleanup(self) -> None:  # noqa: B027, most groups open nothing
        """Let go of what `make_envs` opened; called after every attempt, also of a group that failed."""

    def logging_tags(self) -> Sequence[str]:
        """Return names of the kinds of problem that this is; metrics are logged for each of them, too."""
        return ()


class RLDataset(ABC):
    """Batches of groups."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches in one epoch."""

    @abstractmethod
    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """Return the groups of batch `index`, which follow from the index alone.

        Args:
            index: from 0 to `len(self)` times the number of epochs, exclusive.
        """

    def facts(self) -> Mapping[str, Any]:
        """Return what the data are, as JSON values; a run that is taken up again is held to them."""
        return {}


# Environments that speak in messages need the model's renderer, which is known once its service is open.
MakeDataset = Callable[["ModelSetup"], RLDataset]
