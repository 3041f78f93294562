"""Scores through the SDK, what reinforcement learning makes of them, and judges of pairs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

import tinsmith
from tests.cookbook.eval.tuned import context_of, service_in
from tinsmith.cookbook import rl
from tinsmith.cookbook.batches.datums import shift
from tinsmith.cookbook.eval import Match
from tinsmith.cookbook.preference import ComparisonEvaluator, JudgedGroup, RewardModel, RewardModelJudge, ScoredGroup
from tinsmith.cookbook.preference.pair_examples import PairExamples
from tinsmith.cookbook.preference.reward_tokens import reward_tokens
from tinsmith.cookbook.preference.reward_trainer import verdict_datum
from tinsmith.cookbook.preference.rewards import said, with_reward_model
from tinsmith.cookbook.renderers import Renderer, get_renderer
from tinsmith.cookbook.training import ModelSetup
from tinsmith.types.errors import TinsmithError, UserError
from tinsmith.types.outputs import SampledSequence, SampleResponse
from tinsmith.types.tensor import TensorData

MODEL = "tinsmith-tiny"
ROWS = [
    {"prompt": f"sort: {word}", "chosen": "".join(sorted(word)), "rejected": word} for word in ("hello", "tin", "yes")
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinsmith.ServiceClient]:
    with service_in(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return get_renderer("tinsmith_tiny", tinsmith.get_tokenizer(MODEL))


@pytest.fixture(scope="module")
def trained(service: tinsmith.ServiceClient, renderer: Renderer) -> tuple[tinsmith.TrainingClient, RewardModel]:
    """An adapter that is not zero, and a reward model of its weights: what they say of the same text is the same."""
    training = service.create_lora_training_client(MODEL, rank=4, seed=0)
    training.forward_backward_custom(
        datums(renderer), lambda _, found: (torch.stack([v[-1, 0] for v in found]).sum(), {})
    )
    training.optim_step(tinsmith.AdamParams(learning_rate=1e-2)).result()
    path = training.save_weights_for_sampler().result().path
    return training, RewardModel.open(service, path)


def datums(renderer: Renderer) -> list[tinsmith.Datum]:
    tokens = reward_tokens(renderer.tokenizer)
    examples = PairExamples(renderer, verdict=tokens.good)
    return [verdict_datum(shift(example), tokens) for row in ROWS for example in examples(row)]


@pytest.mark.row(93)
def test_a_score_is_the_log_odds_that_was_trained(
    trained: tuple[tinsmith.TrainingClient, RewardModel], renderer: Renderer
) -> None:
    training, reward_model = trained
    outputs = training.forward(datums(renderer), "cross_entropy").result().loss_fn_outputs
    last = [output["logprobs"].to_numpy()[-1] for output in outputs]
    expected = [float(good - bad) for good, bad in last]
    answers = [(row["prompt"], row[side]) for row in ROWS for side in ("chosen", "rejected")]
    assert reward_model.scores(answers) == pytest.approx(expected, abs=1.1e-3)
    prompt, completion = answers[0]
    as_messages = ([{"role": "user", "content": prompt}], {"role": "assistant", "content": completion})
    assert reward_model.score(*as_messages) == pytest.approx(expected[0], abs=1.1e-3)
    assert asyncio.run(reward_model.score_async(prompt, completion)) == pytest.approx(expected[0], abs=1.1e-3)
    tokens = reward_model.tokens_of(prompt, completion)
    assert asyncio.run(reward_model.scores_of_tokens([tokens])) == pytest.approx(expected[:1], abs=1.1e-3)


@pytest.mark.row(93)
def test_what_cannot_be_scored_is_named(trained: tuple[tinsmith.TrainingClient, RewardModel]) -> None:
    _, reward_model = trained
    with pytest.raises(UserError, match="prompt: got ' ', expected a text"):
        reward_model.score(" ", "hi")
    with pytest.raises(UserError, match=r"completion\[0\].role: got 'user', expected assistant"):
        reward_model.score("hi", {"role": "user", "content": "hi"})


def test_a_text_longer_than_the_context_is_cut_with_a_word(
    service: tinsmith.ServiceClient, renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    reward_model = RewardModel(sampler, renderer, context_length=30, name="small")
    assert reward_model.score("hi", "a" * 50) == reward_model.score("hi", "a" * 40)
    assert "small: a conversation of 56 tokens was cut to 28" in caplog.text
    # The model itself reads 1024.
    assert RewardModel(sampler, renderer, context_length=1024).score("hi", "a" * 1500) < 100


class Diverged:
    """A sampler whose logprobs are what those of diverged weights are."""

    def __init__(self, logprob: float) -> None:
        self._logprob = logprob

    def sample(self, prompt: Any, *_: Any, target_prompt_logprobs: TensorData, **__: Any) -> Any:
        values = np.full(target_prompt_logprobs.to_numpy().shape, self._logprob, dtype=np.float32)
        response = SampleResponse(
            sequences=[SampledSequence(stop_reason="length", tokens=[0], logprobs=[0.0])],
            target_prompt_logprobs=TensorData.from_numpy(values),
        )

        class Done:
            def result(self) -> SampleResponse:
                return response

            def __await__(self) -> Any:
                yield from ()
                return response

        return Done()


def reward_model_that_diverged(renderer: Renderer, logprob: float = float("nan")) -> RewardModel:
    return RewardModel(cast(Any, Diverged(logprob)), renderer, name="tinker://bad")


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_an_error(renderer: Renderer, logprob: float) -> None:
    with pytest.raises(TinsmithError, match=r"tinker://bad: score: got nan .*expected a finite number"):
        reward_model_that_diverged(renderer, logprob).score("hi", "ho")


class Group(rl.EnvGroupBuilder):
    async def make_envs(self) -> Sequence[Any]:
        return []

    async def compute_group_rewards(
        self, trajectories: list[rl.Trajectory], envs: Sequence[Any]
    ) -> list[tuple[float, Mapping[str, float]]]:
        return [(10.0, {"own": 1.0}) for _ in trajectories]

    def logging_tags(self) -> Sequence[str]:
        return ["tag"]


def played(renderer: Renderer, prompt: str, answer: str) -> rl.Trajectory:
    ob = renderer.build_generation_prompt([{"role": "user", "content": prompt}])
    end = renderer.tokenizer.encode(answer + "<|end|>", add_special_tokens=False)
    said_ = rl.TokensWithLogprobs(end, [0.0] * len(end))
    return rl.Trajectory([rl.Transition(ob, said_, 0.0, True)], tinsmith.ModelInput.empty())


@pytest.mark.row(93)
def test_scores_are_added_to_the_rewards_of_any_group(
    trained: tuple[tinsmith.TrainingClient, RewardModel], renderer: Renderer
) -> None:
    _, reward_model = trained
    group = ScoredGroup(Group(), reward_model, weight=0.5)
    assert group.logging_tags() == ["tag"]
    nothing = rl.Trajectory([], tinsmith.ModelInput.empty(), "context")
    episodes = [played(renderer, "sort: ox", "ox"), nothing, played(renderer, "sort: ox", "xo")]
    given = asyncio.run(group.compute_group_rewards(episodes, [None] * 3))
    first, last = reward_model.scores([("sort: ox", "ox"), ("sort: ox", "xo")])
    assert [reward for reward, _ in given] == pytest.approx([10 + first / 2, 10.0, 10 + last / 2], abs=1.1e-3)
    assert given[0][1] == {"own": 1.0, "score": pytest.approx(first, abs=1.1e-3)}
    assert given[1][1] == {"own": 1.0}


@pytest.mark.row(93)
def test_a_reward_model_over_the_groups_of_a_recipe(
    service: tinsmith.ServiceClient, renderer: Renderer, trained: tuple[tinsmith.TrainingClient, RewardModel]
) -> None:
    training, _ = trained
    path = training.save_weights_for_sampler().result().path
    plain = rl.ItemDataset(["a", "b", "c"], lambda _: Group(), 2, None)
    model = ModelSetup(service, renderer.tokenizer, renderer)
    dataset = with_reward_model(plain, path)(model)
    assert (len(dataset), [len(dataset.get_batch(i)) for i in range(2)]) == (2, [2, 1])
    assert dataset.facts() == {"items": 3, "reward_model": path}
    assert all(isinstance(group, ScoredGroup) for group in dataset.get_batch(0))


@pytest.mark.row(93)
def test_a_judge_of_pairs_rewards_a_group_and_its_liking_for_the_first_cancels(renderer: Renderer) -> None:
    asked: list[Match] = []

    def judge(matches: Sequence[Match]) -> list[float | None]:
        asked.extend(matches)
        # Longer is better; of equal ones it likes the first, and about "?" it says nothing.
        return [None if "?" in m.first + m.second else float(len(m.first) >= len(m.second)) for m in matches]

    group = JudgedGroup(Group(), judge, {"messages": [{"role": "user", "content": "hi"}]}, said(renderer), 2.0)
    episodes = [played(renderer, "hi", answer) for answer in ("a", "bbb", "cc", "d")]
    given = asyncio.run(group.compute_group_rewards(episodes, [None] * 4))
    # Of three others: "a" ties with "d", loses twice.
    assert [reward - 10 for reward, _ in given] == pytest.approx([2 * 0.5 / 3, 2.0, 2 * 2 / 3, 2 * 0.5 / 3])
    assert given[1][1] == {"own": 1.0, "win_rate": 1.0}
    assert len(asked) == 12
    assert sorted((m.first, m.second) for m in asked) == sorted((m.second, m.first) for m in asked)
    open_ = asyncio.run(group.compute_group_rewards([played(renderer, "hi", "?"), episodes[0]], [None] * 2))
    assert [reward for reward, _ in open_] == [11.0, 11.0]
    assert asyncio.run(group.compute_group_rewards(episodes[:1], [None]))[0][0] == 10.0


def test_a_reward_model_as_a_judge(trained: tuple[tinsmith.TrainingClient, RewardModel]) -> None:
    _, reward_model = trained
    row = {"messages": [{"role": "user", "content": "sort: hello"}]}
    there, back, same = RewardModelJudge(reward_model)(
        [Match(row, "ehllo", "hello"), Match(row, "hello", "ehllo"), Match(row, "x", "x")]
    )
    assert there is not None
    assert back is not None
    assert (there + back, same) == (pytest.approx(1.0), 0.5)
    first, second = reward_model.scores([("sort: hello", "ehllo"), ("sort: hello", "hello")])
    assert there == pytest.approx(1 / (1 + np.exp(second - first)), abs=1e-3)


def test_the_policy_against_the_chosen_answers(service: tinsmith.ServiceClient) -> None:
    seen: list[Match] = []

    def judge(matches: Sequence[Match]) -> list[float | None]:
        seen.extend(matches)
        return [0.5 if m.first == m.second else float(m.first < m.second) for m in matches]

    found = ComparisonEvaluator(ROWS, judge, max_tokens=12)(context_of(service))
    assert {m.second for m in seen[:3]} == {row["chosen"] for row in ROWS}
    rate = found["eval/win_rate_against_chosen"]
    scores = [((judge([m])[0] or 0.0) + 1 - (judge([Match(m.row, m.second, m.first)])[0] or 0.0)) / 2 for m in seen[:3]]
    assert rate == pytest.approx(np.mean(scores))
    assert found["eval/win_rate_against_chosen/stderr"] == pytest.approx(np.std(scores, ddof=1) / np.sqrt(3))
