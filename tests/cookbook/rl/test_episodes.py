"""One episode: both forms of environment, every limit, every reason of an end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.cookbook.rl.scripted import Echo, Group, ScriptedPolicy, settings, tiny_renderer
from tinsmith import ModelInput
from tinsmith.cookbook.rl import RolloutLimits, StepResult, Trajectory
from tinsmith.cookbook.rl.environments.plain_env import whole_action_env
from tinsmith.cookbook.rl.learning.examples import examples_of
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout


def play(env: Any, policy: Any = None, **limits: Any) -> Trajectory:
    group = asyncio.run(do_group_rollout(Group(lambda: env), policy or ScriptedPolicy(), settings(**limits), seed=1))
    return group.trajectories[0]


class Countdown:
    """The course's form, without a base class: a digit ends it, every third token is answered with 77."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def initial_observation(self) -> list[int]:
        return [1, 2]

    def step(self, action: int) -> tuple[list[int], float, bool]:
        self.seen.append(action)
        if len(self.seen) == 7:
            return [], 1.0, True
        return ([77] if len(self.seen) % 3 == 0 else []), 0.5, False


@pytest.mark.row(71, 72)
def test_a_plain_environment_is_fed_one_token_at_a_time() -> None:
    env = Countdown()
    trajectory = play(env, ScriptedPolicy(length=5))
    # 5 tokens are sampled at a time, of which those behind an answer are dropped.
    assert [len(step.ac.tokens) for step in trajectory.transitions] == [3, 3, 1]
    assert [len(step.ac.logprobs) for step in trajectory.transitions] == [3, 3, 1]
    assert trajectory.reward == pytest.approx(6 * 0.5 + 1.0)
    assert trajectory.end_reason == "done"
    (example,) = examples_of(trajectory, [1.0] * len(trajectory.transitions))
    assert [token for token, said in zip(example.tokens, example.action, strict=True) if said] == env.seen
    assert [token for token, said in zip(example.tokens, example.action, strict=True) if not said] == [1, 2, 77, 77]


class Spoken:
    action_level = "message"

    def initial_observation(self) -> list[int]:
        return [10]

    def step(self, action: Any) -> tuple[list[int], float, bool]:
        self.said = action
        return [], 1.0, True


@pytest.mark.row(71)
def test_a_plain_environment_may_ask_for_whole_messages() -> None:
    env = Spoken()
    policy = ScriptedPolicy()
    trajectory = play(env, policy)
    assert env.said["role"] == "assistant"
    assert env.said["tokens"] == trajectory.transitions[0].ac.tokens
    assert policy.asked[0]["stop"] == tiny_renderer().get_stop_sequences()


def test_plain_environments_that_block_do_not_hold_up_each_other() -> None:
    class Slow(Countdown):
        def initial_observation(self) -> list[int]:
            time.sleep(0.2)
            return [1]

        def step(self, action: int) -> tuple[list[int], float, bool]:
            return [], 1.0, True

    began = time.perf_counter()
    asyncio.run(do_group_rollout(Group(*[Slow] * 20), ScriptedPolicy(), settings(), seed=1))
    assert time.perf_counter() - began < 2.0  # one after the other would take 4 seconds


@pytest.mark.parametrize(
    ("answer", "told"),
    [((["a"], 0.0, False), "whole number"), ("x", "tokens to append"), (("ab", 0.0, False), "a list of token ids")],
)
def test_a_plain_environment_that_answers_nonsense_is_named(answer: Any, told: str) -> None:
    class Odd(Countdown):
        def step(self, action: int) -> Any:
            return answer

    with pytest.raises(Exception, match=told) as caught:
        play(Odd())
    assert "step()" in str(caught.value)


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"environment: got 'int', expected an object with a method"):
        whole_action_env(3, tiny_renderer())
    Spoken.action_level = "word"
    try:
        with pytest.raises(ValueError, match="action_level: got 'word', expected token or message"):
            whole_action_env(Spoken(), tiny_renderer())
    finally:
        Spoken.action_level = "message"


@pytest.mark.parametrize(
    ("limits", "policy", "turns", "reason"),
    [
        ({}, {}, 4, "done"),
        ({"max_turns": 2}, {}, 2, "max_turns"),
        # 2 read, 3 said, 1 read, 3 said, 1 read: ten tokens leave no room.
        ({"max_trajectory_tokens": 10}, {}, 2, "max_tokens"),
        ({}, {"context_length": 10}, 2, "context"),
        ({}, {"context_length": 2}, 0, "context"),
    ],
)
def test_every_end_has_a_reason(limits: Any, policy: Any, turns: int, reason: str) -> None:
    trajectory = play(Echo(turns=4), ScriptedPolicy(**policy), **limits)
    assert (len(trajectory.transitions), trajectory.end_reason) == (turns, reason)


def test_an_action_is_no_longer_than_what_is_left() -> None:
    policy = ScriptedPolicy(context_length=9)
    trajectory = play(Echo(turns=4), policy, max_tokens=4)
    assert [asked["max_tokens"] for asked in policy.asked] == [4, 3]
    assert [len(step.ac.tokens) for step in trajectory.transitions] == [3, 3]
    policy = ScriptedPolicy(context_length=7)
    assert [len(step.ac.tokens) for step in play(Echo(turns=4), policy).transitions] == [3, 1]


def test_tool_calls_are_counted_over_the_episode() -> None:
    class Calls(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
            result = await super().step(action)
            result.metrics = {"tool_calls": 2}
            return result

    trajectory = play(Calls(turns=9), max_tool_calls=4)
    assert (len(trajectory.transitions), trajectory.end_reason) == (3, "max_tool_calls")


def test_an_environment_may_reward_what_a_limit_ends() -> None:
    class Sorry(Echo):
        def reward_at_limit(self, reason: str) -> float:
            return {"max_turns": -3.0}[reason]

    trajectory = play(Sorry(turns=9), max_turns=1)
    assert trajectory.limit_reward == -3.0
    assert trajectory.reward == trajectory.transitions[0].reward - 3.0


def test_a_hanging_environment_is_ended_by_the_clock_and_what_was_said_counts() -> None:
    class Hangs(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
            if self.turns == 1:
                await asyncio.sleep(60)
            return await super().step(action)

    began = time.perf_counter()
    group = asyncio.run(do_group_rollout(Group(Hangs, Echo), ScriptedPolicy(), settings(max_seconds=0.3), seed=1))
    assert time.perf_counter() - began < 5
    assert [(len(t.transitions), str(t.end_reason)) for t in group.trajectories] == [(1, "max_seconds"), (2, "done")]


def test_an_environment_that_hangs_before_it_begins_has_no_steps() -> None:
    group = asyncio.run(
        do_group_rollout(Group(lambda: Echo(delay=60), Echo), ScriptedPolicy(), settings(max_seconds=0.3), seed=1)
    )
    assert [(len(t.transitions), str(t.end_reason)) for t in group.trajectories] == [(0, "max_seconds"), (2, "done")]


def test_what_an_environment_does_to_its_action_changes_nothing() -> None:
    class Vandal(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
            result = await super().step(action)
            action.clear()
            return result

    assert all(len(step.ac.tokens) == 3 for step in play(Vandal()).transitions)


def test_an_environment_may_give_its_own_reason_and_new_stops() -> None:
    class Own(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
            result = await super().step(action)
            result.next_stop_condition, result.end_reason = [8, 9], "checkmate"
            return result

    policy = ScriptedPolicy()
    assert play(Own(), policy).end_reason == "checkmate"
    assert [asked["stop"] for asked in policy.asked] == [[7], [8, 9]]


@pytest.mark.parametrize(
    ("limit", "value"), [("max_tokens", 0), ("max_turns", -1), ("max_seconds", 0.0), ("max_turns", True)]
)
def test_limits_are_checked(limit: str, value: Any) -> None:
    with pytest.raises(ValueError, match=limit):
        RolloutLimits(**{limit: value})


def test_an_empty_observation_is_named() -> None:
    with pytest.raises(Exception, match=r"Echo\.initial_observation\(\).*at least one token"):
        play(Echo(prompt=()))
    with pytest.raises(Exception, match=r"expected a ModelInput"):
        play(type("Text", (Echo,), {"initial_observation": lambda self: text()})())


async def text() -> Any:
    return "hello", None


def test_the_policy_reads_what_the_environment_shows() -> None:
    trajectory = play(Echo())
    first, second = trajectory.transitions
    assert first.ob == ModelInput.from_ints([1, 2])
    assert second.ob.to_ints() == [1, 2, *first.ac.tokens, 5]
