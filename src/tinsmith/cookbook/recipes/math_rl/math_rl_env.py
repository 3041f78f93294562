"""`MathEnv`: a problem, and whether the last box of what is said holds its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.grading import extract_boxed, has_boxed, safe_grade_async
from tinsmith.cookbook.renderers import Message, Renderer
from tinsmith.cookbook.rl import ProblemEnv, RewardMap

_REWARDS = RewardMap()


class MathEnv(ProblemEnv):
    """A problem whose answer is to be written in `\\boxed{}`.

    Args:
        problem: what is asked.
        answer: the right answer, as it would stand in the box.
        renderer: of the model.
        convo_prefix: messages before the question: a system prompt, examples.
        rewards: what an answer is worth; +1 for a right one and +0.1 for a box, unless it is said otherwise.
    """

    def __init__(
        self,
        problem: str,
        answer: str,
        renderer: Renderer,
        convo_prefix: Sequence[Message | Mapping[str, Any]] = (),
        rewards: RewardMap = _REWARDS,
    ) -> None:
        super().__init__(renderer, convo_prefix, rewards)
        self.problem, self.answer = problem, answer

    def get_question(self) -> str:
        """Return the problem, and where its answer is to be written."""
        return self.problem + " Write in \\boxed{}."

    def check_format(self, sample: str) -> bool:
        """Return whether the last box is closed and not empty."""
        return has_boxed(sample)

    # A coroutine, as some answers need seconds of algebra, and other episodes go on meanwhile.
    async def check_answer(self, sample: str) -> bool:
        """Return whether what stands in the last box is the answer."""
        return await safe_grade_async(extract_boxed(sample), self.answer)

    def get_reference_answer(self) -> str:
        """Return the answer, for the transcript."""
        return self.answer
