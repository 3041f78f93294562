"""Problems with one turn and a verifiable answer."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.cookbook.renderers import Message, Renderer
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl.environments.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult


@dataclass(frozen=True)
class RewardMap:
    """What an answer is worth: `correct` or `wrong`, and on top `formatted` or `unformatted`.

    The course has two: +1 or 0 with a bonus of 0.1 for a box, and `RewardMap(correct=1, wrong=-1, formatted=0)`.

    Attributes:
        correct, wrong: for what is said.
        formatted, unformatted: for how it is said.
    """

    correct: float = 1.0
    wrong: float = 0.0
    formatted: float = 0.1
    unformatted: float = 0.0

    def parts(self, *, correct: float, formatted: float) -> dict[str, float]:
        """Return the parts of a reward; grades between 0 and 1 give what lies between."""
        return {
            "answer": self.wrong + correct * (self.correct - self.wrong),
            "format": self.unformatted + formatted * (self.formatted - self.unformatted),
        }


class ProblemEnv(EnvFromMessageEnv):
    """A question, and checks of the answer's form and content.

    Subclasses say `get_question`, `check_format` and `check_answer`; the checks may be coroutines, and may return a
    grade from 0 to 1 in place of a bool.

    Args:
        renderer: of the model.
        convo_prefix: messages before the question: a system prompt, examples.
        rewards: what an answer is worth.
    """

    def __init__(
        self,
        renderer: Renderer,
        convo_prefix: Sequence[Message | Mapping[str, Any]] = (),
        rewards: RewardMap = RewardMap(),
    ) -> None:
        super().__init__(renderer, _OneTurn(self))
        self.convo_prefix = convo_prefix
        self.rewards = rewards

    @abstractmethod
    def get_question(self) -> str:
        """Return what the policy is asked."""

    @abstractmethod
    def check_format(self, sample: str) -> Any:
        """Return whether the answer has the form that was asked for."""

    @abstractmethod
    def check_answer(self, sample: str) -> Any:
        """Return whether the answer is right."""

    def get_reference_answer(self) -> str:
        """Return the right answer, for the transcript; empty unless it is overridden."""
        return ""


class _OneTurn(MessageEnv):
    """A problem as an environment of messages."""

    def __init__(self, problem: ProblemEnv) -> None:
        self._problem = problem

    async def initial_observation(self) -> Sequence[Message | Mapping[str, Any]]:
        return [*self._problem.convo_prefix, {"role": "user", "content": self._problem.get_question()}]

    async def step(self, message: Message) -> MessageStepResult:
        problem = self._problem
        said = get_text_content(message)
        correct = float(await _value(problem.check_answer(said)))
        formatted = float(await _value(problem.check_format(said)))
        parts = problem.rewards.parts(correct=correct, formatted=formatted)
        return MessageStepResult(
            sum(parts.values()),
            True,
            metrics={"correct": correct, "format": formatted},
            logs={"said": said, "reference": problem.get_reference_answer()},
            reward_parts=parts,
        )


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given
