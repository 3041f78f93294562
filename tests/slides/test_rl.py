"""The snippets of "Part 4: Reinforcement Learning", in the rollout loop and on the embedded service."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cookbook.rl.scripted import Group, ScriptedPolicy, settings, tiny_renderer
from tests.slides import snippets
from tinsmith import ModelInput, TrainingClient
from tinsmith.cookbook import rl
from tinsmith.cookbook.grading import extract_boxed, has_boxed, safe_grade
from tinsmith.cookbook.recipes.math_rl import math_rl_env
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.runs.jsonl import read_rows

FLOW = "Let me calculate: 15 * 23 = 345. Therefore \\boxed{345}"


@dataclass
class Says(ScriptedPolicy):
    """Says what it is given, turn by turn, whatever it reads."""

    turns: tuple[str, ...] = ()

    async def sample(self, observation: ModelInput, stop: Any, **how: Any) -> list[rl.TokensWithLogprobs]:
        await super().sample(observation, stop, **how)
        tokens = [*self.turns[len(self.asked) - 1].encode(), 257]
        return [rl.TokensWithLogprobs(tokens, [-0.5] * len(tokens))] * how.get("num_samples", 1)


def play(env: Any, *turns: str) -> rl.Trajectory:
    group = asyncio.run(do_group_rollout(Group(lambda: env), Says(turns=turns), settings(), seed=0))
    return group.trajectories[0]


@pytest.mark.row(71)
def test_rl_environments(tmp_path: Path) -> None:
    """The interface as it stands: a class of it is trained, token by token, without a base class of ours."""
    names: dict[str, Any] = {}
    snippets.run(snippets.ENVIRONMENT, names)

    class SaysVowels(names["Env"]):
        left = 4

        def initial_observation(self) -> list[int]:
            return list(b"copy: ")

        def step(self, action: int) -> tuple[list[int], float, bool]:
            self.left -= 1
            return [], float(action in list(b"aeiou")), self.left == 0

    assert SaysVowels().step(ord("a")) == ([], 1.0, False)
    dataset = rl.ItemDataset(range(4), lambda _: rl.RepeatedEnv(SaysVowels, 8), 4)
    config = rl.RLConfig(
        max_steps=2, batch_size=4, group_size=8, max_tokens=6, lora_rank=4, log_path=str(tmp_path / "run")
    )
    rl.train(config, "vowels", dataset)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row.get("env/episodes") for row in rows] == [32, 32, None]
    assert rows[0]["train/trained_tokens"] == 4 * rows[0]["train/examples"] > 0
    assert rows[0]["env/end/done"] == 1.0


@pytest.mark.row(73, 74)
def test_reward_functions() -> None:
    names: dict[str, Any] = {"extract_number": extract_boxed, "has_boxed_answer": has_boxed, "correct": "345"}
    snippets.run(snippets.COMPUTE_REWARD, names)
    said = [FLOW, "\\boxed{340}", "345"]
    assert [names["compute_reward"](answer) for answer in said] == [1.1, 0.1, 0.0]
    # Our environment gives the same, and +1 or 0 where nothing is given for the box.
    for rewards, expected in ((rl.RewardMap(), [1.1, 0.1, 0.0]), (rl.RewardMap(formatted=0.0), [1.0, 0.0, 0.0])):
        envs = [math_rl_env.MathEnv("What's 15 * 23?", "345", tiny_renderer(), rewards=rewards) for _ in said]
        assert [play(env, answer).reward for env, answer in zip(envs, said, strict=True)] == expected


@pytest.mark.row(39, 76, 77, 78)
def test_rollouts_and_importance_sampling(training: TrainingClient, names: dict[str, Any]) -> None:
    advantages = np.array([1.0, -1.0])
    names |= {"compute_reward": len, "create_rl_data": rl.create_rl_data, "advantages": advantages}
    snippets.run(snippets.ROLLOUTS, names, ('{"temperature": 1.0}', '{"temperature": 1.0, "max_tokens": 6}'))
    assert names["rewards"] == [len(response) for response in names["responses"]]
    names["batch"] = names["data"]
    future_metrics = training.forward(names["batch"], "importance_sampling").result().metrics
    snippets.run(snippets.IMPORTANCE_SAMPLING, names)
    # On-policy the ratio is 1 at every token, and the loss minus the sum of the advantages.
    total = sum(float(datum.loss_fn_inputs["advantages"].to_numpy().sum()) for datum in names["batch"])
    assert future_metrics["loss:sum"] == pytest.approx(-total, abs=1e-3)
    assert training.optim_step().result().metrics["grad_norm"] > 0


@pytest.mark.row(72)
@pytest.mark.parametrize(("guess", "reward"), [("tin", 1.0), ("oak", -1.0)])
def test_multi_step_environments(guess: str, reward: float) -> None:
    said: list[str] = []
    names: dict[str, Any] = {
        "Env": rl.Env,
        "is_question": lambda message: said.append(message["content"]) or said[-1].endswith("?"),
        "correct_guess": lambda: said[-1] == "tin",
    }
    snippets.run(snippets.TWENTY_QUESTIONS, names)

    class Game(names["TwentyQuestionsEnv"]):
        action_level = "message"

        def initial_observation(self) -> list[int]:
            return list(b"Guess what I have.")

        def answer_question(self) -> list[int]:
            return list(b"Yes.")

    trajectory = play(Game(), "Is it a metal?", "Is it cheap?", guess)
    assert said == ["Is it a metal?", "Is it cheap?", guess]
    assert [(step.reward, step.episode_done) for step in trajectory.transitions] == [
        (0.0, False),
        (0.0, False),
        (reward, True),
    ]
    assert bytes(trajectory.transitions[1].ob.to_ints()[-4:]) == b"Yes."


@pytest.mark.row(85, 86)
def test_math_rl_environment() -> None:
    """`MathEnv` as it stands is an environment, its flow is the next slide's, and ours does the same."""
    names: dict[str, Any] = {
        "ProblemEnv": rl.ProblemEnv,
        "has_boxed": has_boxed,
        "extract_boxed": extract_boxed,
        "safe_grade": safe_grade,
    }
    snippets.run(snippets.MATH_ENV, names)

    class Problem(names["MathEnv"]):
        problem, answer = "What's 15 * 23?", "345"

    env = Problem(tiny_renderer())
    assert (env.check_format(FLOW), env.check_answer(FLOW)) == (True, True)
    ours = math_rl_env.MathEnv(env.problem, env.answer, tiny_renderer())
    assert ours.get_question() == env.get_question() == "What's 15 * 23? Write in \\boxed{}."
    for answer, reward in ((FLOW, 1.1), ("\\boxed{340}", 0.1), ("345", 0.0)):
        assert play(Problem(tiny_renderer()), answer).reward == reward
        assert play(math_rl_env.MathEnv(env.problem, env.answer, tiny_renderer()), answer).reward == reward
    # The flow's own rewards are +1 and -1.
    signs = rl.RewardMap(correct=1.0, wrong=-1.0, formatted=0.0)
    assert [play(Problem(tiny_renderer(), rewards=signs), said).reward for said in (FLOW, "\\boxed{340}")] == [
        1.0,
        -1.0,
    ]


@pytest.mark.row(84)
def test_group_based_training_grpo() -> None:
    rewards = np.array([1.0, 1.0, -1.0, *[1.0, -1.0] * 6, 1.0])
    names: dict[str, Any] = {"rewards": rewards, "mean": np.mean}
    snippets.run(snippets.GROUP_ADVANTAGES, names)
    assert len(rewards) == 16
    assert names["advantages"].sum() == pytest.approx(0.0)
    np.testing.assert_allclose(rl.compute_advantages(rewards.tolist()), names["advantages"])


@pytest.mark.row(80, 87)
@pytest.mark.parametrize(("prompts", "completions"), [(128, 4), (4, 16), (2, 64)])
def test_group_training_example(prompts: int, completions: int, tmp_path: Path) -> None:
    """128 prompts x 4 completions = 512 rollouts, and the other sizes of the slides."""

    def groups(model: Any) -> rl.RLDataset:
        def group(number: int) -> rl.RepeatedEnv:
            env = lambda: math_rl_env.MathEnv(f"{number}+1", str(number + 1), model.renderer)  # noqa: E731
            return rl.RepeatedEnv(env, completions)

        return rl.ItemDataset(range(prompts), group, prompts)

    config = rl.RLConfig(
        batch_size=prompts, group_size=completions, max_tokens=2, lora_rank=1, log_path=str(tmp_path / "run")
    )
    assert rl.train(config, "sizes", groups).steps == 1
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[0]["env/episodes"] == prompts * completions


@pytest.mark.row(5)
def test_the_fields_own_words_name_the_types() -> None:
    """Policy, action, observation, reward, trajectory, environment: an episode is made of them, by these names."""
    assert issubclass(math_rl_env.MathEnv, rl.Env)
    annotations = inspect.get_annotations(rl.Transition, eval_str=True)
    assert annotations["ob"] == rl.Observation
    assert annotations["reward"] is float
    assert "action" in inspect.signature(rl.Env.step).parameters
    assert rl.Action == list[int]
    assert inspect.get_annotations(rl.Trajectory, eval_str=True)["transitions"] == list[rl.Transition]
    assert inspect.signature(do_group_rollout, eval_str=True).parameters["policy"].annotation is Policy
