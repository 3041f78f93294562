"""`PreferenceEnv`: a prompt, and an answer that a reward model scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.cookbook.preference import RewardModel
from tinsmith.cookbook.preference.comparison import read_comparison
from tinsmith.cookbook.recipes.preference.preference_dataset import quality_of
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import (
    EnvFromMessageEnv,
    ItemDataset,
    MakeDataset,
    MessageEnv,
    MessageStepResult,
    RepeatedEnv,
    RLDataset,
)
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.training import ModelSetup


class PreferenceEnv(MessageEnv):
    """One prompt, one answer; the reward is the answer's score.

    Where it is known by rule what an answer is worth, that is logged as `quality`: what the score is to stand for.

    Args:
        row: a comparison, whose answers are not looked at.
        reward_model: scores the answer.
    """

    def __init__(self, row: Row, reward_model: RewardModel) -> None:
        comparison = read_comparison(row)
        self._row = row
        self._prompt = comparison.prompt
        self.tools = comparison.tools
        self._reward_model = reward_model

    async def initial_observation(self) -> list[Any]:
        """Return the prompt."""
        return self._prompt

    async def step(self, message: Message) -> MessageStepResult:
        """Score the answer."""
        said = get_text_content(message)
        # What it says, not the ids that were sampled: those of an answer that was cut off have no end, and the reward
        # model has never seen one without.
        answer = {key: value for key, value in message.items() if key not in ("tokens", "unparsed_tool_calls")}
        score = await self._reward_model.score_async(self._prompt, answer, tools=self.tools)
        metrics = {"score": score, "answer_length": float(len(said))}
        quality = quality_of(self._row, said)
        if quality is not None:
            metrics["quality"] = quality
        return MessageStepResult(score, True, metrics=metrics, logs={"said": said})


def groups(
    rows: Sequence[Row], reward_model_path: str, group_size: int, batch_size: int, seed: int | None
) -> MakeDataset:
    """Return what makes a data set of groups, each one prompt.

    Args:
        rows: comparisons, of which the prompts are taken.
        reward_model_path: `tinker://` weights, on the run's service.
        group_size: answers to each prompt.
        batch_size: prompts per batch.
        seed: of their order; None keeps it.
    """

    def make(model: ModelSetup) -> RLDataset:
        reward_model = RewardModel.open(model.service, reward_model_path, renderer_name=model.renderer.name)

        def group(row: Row) -> RepeatedEnv:
            return RepeatedEnv(lambda: EnvFromMessageEnv(model.renderer, PreferenceEnv(row, reward_model)), group_size)

        return ItemDataset(rows, group, batch_size, seed, {"reward_model": reward_model_path})

    return make
