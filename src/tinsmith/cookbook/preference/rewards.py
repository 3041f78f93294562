"""Learned rewards for reinforcement learning: a reward model, or a judge of pairs, over the groups of any recipe."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from tinsmith.cookbook.eval.judges import Judge, Match
from tinsmith.cookbook.eval.win_rate import scores_of
from tinsmith.cookbook.preference.reward_model import RewardModel
from tinsmith.cookbook.renderers.encoding import fast_tokenizer
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import EnvGroupBuilder, MakeDataset, Metrics, RLDataset, Trajectory
from tinsmith.cookbook.training import ModelSetup
from tinsmith.types.errors import invalid

Wrap = Callable[[EnvGroupBuilder], EnvGroupBuilder]


class WrappedGroup(EnvGroupBuilder):
    """A group of another builder's environments, whose group rewards a subclass adds to."""

    def __init__(self, builder: EnvGroupBuilder) -> None:
        self._builder = builder
        self.plays_together = builder.plays_together

    async def make_envs(self) -> Sequence[Any]:
        """Return the builder's environments."""
        return await self._builder.make_envs()

    async def compute_group_rewards(
        self, trajectories: list[Trajectory], envs: Sequence[Any]
    ) -> list[tuple[float, Metrics]]:
        """Return the builder's rewards and the learned ones, added up."""
        given = await self._builder.compute_group_rewards(trajectories, envs)
        learned = await self.learned_rewards(trajectories)
        return [
            (reward + more, {**metrics, **told}) for (reward, metrics), (more, told) in zip(given, learned, strict=True)
        ]

    @abstractmethod
    async def learned_rewards(self, trajectories: list[Trajectory]) -> list[tuple[float, Metrics]]:
        """Return a reward and metrics for each episode."""

    async def cleanup(self) -> None:
        """Let the builder clean up."""
        await self._builder.cleanup()

    def logging_tags(self) -> Sequence[str]:
        """Return the builder's tags."""
        return self._builder.logging_tags()


class ScoredGroup(WrappedGroup):
    """Adds the score of a reward model, times a weight, to the reward of each episode; `env/score` is the score.

    What is scored are the tokens of the episode's last step: all that the policy read, and what it said.
    """

    def __init__(self, builder: EnvGroupBuilder, reward_model: RewardModel, weight: float = 1.0) -> None:
        super().__init__(builder)
        self._reward_model = reward_model
        self._weight = weight

    async def learned_rewards(self, trajectories: list[Trajectory]) -> list[tuple[float, Metrics]]:
        """Return the weighted scores; an episode in which nothing was said has none, and its reward is 0."""
        spoken = [trajectory.transitions[-1] for trajectory in trajectories if trajectory.transitions]
        scores = iter(
            await self._reward_model.scores_of_tokens([[*step.ob.to_ints(), *step.ac.tokens] for step in spoken])
        )
        found: list[tuple[float, Metrics]] = []
        for trajectory in trajectories:
            if not trajectory.transitions:
                found.append((0.0, {}))
                continue
            score = next(scores)
            found.append((self._weight * score, {"score": score}))
        return found


class JudgedGroup(WrappedGroup):
    """Adds how often an episode's answer beats the others of its group, as a judge of pairs sees it.

    Every two answers are shown to the judge in both orders, so that one who prefers the first decides nothing; the
    reward is the mean score against the others, 0 to 1, a tie counting one half.

    Args:
        builder: of the environments, each of which ends with one answer to the same question.
        judge: `ModelJudge` for one that is asked in words.
        row: the question as the judge reads it, `{"messages": [...]}`.
        read: the text of an answer, from the tokens that were sampled.
        weight: of the reward.
    """

    def __init__(
        self,
        builder: EnvGroupBuilder,
        judge: Judge,
        row: Mapping[str, Any],
        read: Callable[[Sequence[int]], str],
        weight: float = 1.0,
    ) -> None:
        super().__init__(builder)
        self._judge = judge
        self._row = row
        self._read = read
        self._weight = weight

    async def learned_rewards(self, trajectories: list[Trajectory]) -> list[tuple[float, Metrics]]:
        """Return the weighted mean scores."""
        answers = [self._read(t.transitions[-1].ac.tokens) if t.transitions else "" for t in trajectories]
        pairs = list(combinations(range(len(answers)), 2))
        if not pairs:
            return [(0.0, {}) for _ in answers]
        matches = [Match(self._row, answers[a], answers[b]) for a, b in pairs]
        matches += [Match(self._row, answers[b], answers[a]) for a, b in pairs]
        # Judges block, and this is the loop that all rollouts live on.
        verdicts = await asyncio.to_thread(self._judge, matches)
        if len(verdicts) != len(matches):
            raise invalid("judge", f"{len(verdicts)} verdicts", f"{len(matches)}, one for each match")
        won: list[list[float]] = [[] for _ in answers]
        for (first, second), score in zip(pairs, scores_of(verdicts), strict=True):
            won[first].append(score)
            won[second].append(1.0 - score)
        return [(self._weight * fmean(own), {"win_rate": fmean(own)}) for own in won]


class _WrappedDataset(RLDataset):
    def __init__(self, dataset: RLDataset, wrap: Wrap, described: Mapping[str, Any]) -> None:
        self._dataset = dataset
        self._wrap = wrap
        self._described = described

    def __len__(self) -> int:
        return len(self._dataset)

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        return [self._wrap(builder) for builder in self._dataset.get_batch(index)]

    def facts(self) -> Mapping[str, Any]:
        return {**self._dataset.facts(), **self._described}


def with_reward_model(dataset: RLDataset | MakeDataset, model_path: str, weight: float = 1.0) -> MakeDataset:
    """Return the groups of any recipe with a reward model's score added to their rewards.

    Args:
        dataset: the groups, or a function that makes them.
        model_path: of the reward model's weights, on the run's service; of the same vocabulary as the policy.
        weight: of the score.

    Raises:
        UserError: the two models have different vocabularies.
    """

    def make(model: ModelSetup) -> RLDataset:
        groups = dataset if isinstance(dataset, RLDataset) else dataset(model)
        reward_model = RewardModel.open(model.service, model_path)
        _check_vocabulary(reward_model, model)
        return _WrappedDataset(
            groups, lambda builder: ScoredGroup(builder, reward_model, weight), {"reward_model": model_path}
        )

    return make


def said(renderer: Any) -> Callable[[Sequence[int]], str]:
    """Return what reads an answer's text from its tokens, for `JudgedGroup`."""
    return lambda tokens: get_text_content(renderer.parse_response(tokens).message)


def _check_vocabulary(reward_model: RewardModel, model: ModelSetup) -> None:
    theirs, ours = (fast_tokenizer(t).get_vocab() for t in (reward_model.renderer.tokenizer, model.tokenizer))
    if theirs != ours:
        raise invalid(
            "reward model",
            f"a vocabulary of {len(theirs)} tokens",
            f"that of the policy, {len(ours)} tokens, since what is sampled is scored as it is; for another one, "
            "score texts in the environment: RewardModel.score_async",
        )
