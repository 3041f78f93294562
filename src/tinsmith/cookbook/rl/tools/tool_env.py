"""`ToolEnv`: the model calls tools until it answers without a call, and the whole conversation is graded."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.rl.environment import Logs, Metrics
from tinsmith.cookbook.rl.environments.message_env import MessageEnv, Messages, MessageStepResult
from tinsmith.cookbook.rl.tools.calls import FAULTS, ToolCaller, ToolLimits
from tinsmith.cookbook.rl.tools.tool import Tool
from tinsmith.types.errors import invalid


@dataclass(frozen=True)
class EpisodeGrade:
    """What an episode is worth.

    Attributes:
        reward: of the whole episode.
        metrics, logs, reward_parts: as in `StepResult`.
    """

    reward: float
    metrics: Metrics = field(default_factory=dict[str, float])
    logs: Logs = field(default_factory=dict[str, "str | int | float"])
    reward_parts: Metrics = field(default_factory=dict[str, float])


GradeFunction = Callable[[Sequence[Message]], "float | EpisodeGrade | Awaitable[float | EpisodeGrade]"]


class ToolEnv(MessageEnv):
    """A conversation in which the model may call tools.

    Each turn's calls are made at the same time, and their results come back in the order of the calls. The episode ends
    with the first turn that calls nothing. Beside what the grade measures, `tool_calls`, `tool_errors`,
    `tool_errors/FAULT` and `tool_results_cut` are counted.

    Args:
        messages: the conversation that the model reads first.
        tools: functions that are declared with `@tool`; none is an episode of one turn.
        grade: a function or coroutine function of the whole conversation, results of tools included, that returns the
            reward, or an `EpisodeGrade`. A plain one must be quick: it is called on the event loop.
        limits: of the calls; None takes those of `ToolLimits()`.

    Attributes:
        messages: the conversation so far; turns of the model hold the ids that were sampled.

    Raises:
        UserError: a tool is none, or two have the same name.
    """

    def __init__(
        self, messages: Messages, tools: Sequence[Tool], grade: GradeFunction, limits: ToolLimits | None = None
    ) -> None:
        self.messages: list[Any] = list(messages)
        self._caller = ToolCaller(tools, limits)
        self._grade = grade
        self.tools = self._caller.specs or None

    async def initial_observation(self) -> Messages:
        """Return the conversation that the model reads first."""
        return self.messages

    async def step(self, message: Message) -> MessageStepResult:
        """Make the calls of a turn; grade where there are none."""
        self.messages.append(message)
        before = self._caller.counts["calls"]
        results = await self._caller.answer(message)
        if not results:
            given = await grade_of(self._grade(self.messages))
            metrics = {**self._measured(), **given.metrics, "tool_calls": 0.0}
            return MessageStepResult(
                given.reward, True, metrics=metrics, logs=given.logs, reward_parts=given.reward_parts
            )
        self.messages += [result.message for result in results]
        faults = [str(result.message["content"]) for result in results if result.fault]
        return MessageStepResult(
            0.0,
            False,
            list(self.messages),
            # Of the turn, as rollouts add them up; all else is of the episode so far.
            metrics={**self._measured(), "tool_calls": float(self._caller.counts["calls"] - before)},
            logs={"tool errors": "; ".join(faults)} if faults else {},
        )

    def _measured(self) -> dict[str, float]:
        counts = self._caller.counts
        return {
            "tool_errors": float(sum(counts[fault] for fault in FAULTS)),
            **{f"tool_errors/{fault}": float(counts[fault]) for fault in FAULTS},
            "tool_results_cut": float(counts["cut"]),
        }


async def grade_of(given: Any) -> EpisodeGrade:
    """Return what a grade function or an agent gave, waited for, as an `EpisodeGrade`.

    Raises:
        UserError: it is none.
    """
    given = await given if inspect.isawaitable(given) else given
    if isinstance(given, EpisodeGrade):
        return given
    if isinstance(given, Mapping | str) or not hasattr(given, "__float__"):
        raise invalid("reward", given, "a number, or an EpisodeGrade")
    return EpisodeGrade(float(given))
