"""Groups: the same seed gives the same trajectories whoever is quick, and errors are borne as the settings say."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.cookbook.rl.scripted import Echo, Group, ScriptedPolicy, settings
from tinsmith.cookbook.rl import EnvError, StepResult, TrajectoryGroup
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.types.errors import NotFoundError, RequestErrorCategory, RequestFailedError


def play(group: Any, policy: Any = None, *, seed: int = 3, errors: ErrorPolicy | None = None) -> TrajectoryGroup:
    return asyncio.run(do_group_rollout(group, policy or ScriptedPolicy(), settings(errors), seed=seed))


class Failing(Echo):
    """Fails in a turn, as often as `left` says."""

    left = 0
    error: Exception = KeyError("board")

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        if type(self).left > 0:
            type(self).left -= 1
            raise self.error
        return await super().step(action)


@pytest.mark.parametrize("prompts", [[(1, 2)] * 4, [(1, i) for i in range(4)]])
def test_the_same_seed_gives_the_same_trajectories_whoever_is_quick(prompts: Any) -> None:
    def group(clock: int) -> Group:
        delays = Random(clock)
        return Group(*(partial(Echo, 3, prompt, delays.random() / 50) for prompt in prompts))

    first, again, other = (play(group(clock), seed=seed) for clock, seed in ((0, 3), (1, 3), (2, 4)))
    assert first == again
    assert first.trajectories != other.trajectories
    said = [[step.ac.tokens for step in t.transitions] for t in first.trajectories]
    assert all(said[0] != each for each in said[1:])


def test_a_shared_beginning_is_sampled_in_one_request() -> None:
    together, apart = ScriptedPolicy(), ScriptedPolicy()
    play(Group(*[Echo] * 4), together)
    assert [asked["num_samples"] for asked in together.asked] == [4, 1, 1, 1, 1]
    play(Group(*(partial(Echo, 2, (1, i)) for i in range(4))), apart)
    assert [asked["num_samples"] for asked in apart.asked] == [1] * 8
    assert len({asked["seed"] for asked in apart.asked}) == 8


def test_seeds_of_neighbouring_places_do_not_meet() -> None:
    seeds = {derived_seed(run, step, group) for run in range(5) for step in range(20) for group in range(20)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_error_ends_the_rollout_and_names_the_environment_and_the_turn() -> None:
    Failing.left = 1
    group = Group(Echo, Failing)
    with pytest.raises(EnvError, match=r"Failing\.step\(\), turn 0: KeyError: 'board'") as caught:
        play(group)
    assert caught.value.member == 1
    assert isinstance(caught.value.__cause__, KeyError)
    assert group.cleaned == 1


def test_a_group_is_played_again_with_the_same_seed_first() -> None:
    undisturbed = play(Group(Echo, Echo))
    Failing.left = 1
    group = Group(Echo, Failing)
    retried = play(group, errors=ErrorPolicy("retry", retries=2))
    assert retried.trajectories == undisturbed.trajectories
    assert [(e.error_type, e.member) for e in retried.errors] == [("KeyError", 1)]
    assert (group.made, group.cleaned) == (2, 2)


def test_a_group_that_fails_again_is_drawn_anew_and_in_the_end_given_up() -> None:
    Failing.left = 2
    undisturbed = play(Group(Echo, Echo))
    assert play(Group(Echo, Failing), errors=ErrorPolicy("retry", 2)).trajectories != undisturbed.trajectories
    Failing.left = 3
    with pytest.raises(EnvError):
        play(Group(Echo, Failing), errors=ErrorPolicy("retry", 2))
    assert Failing.left == 0


def test_a_group_goes_on_without_the_episode_that_failed() -> None:
    undisturbed = play(Group(Echo, Echo, Echo))
    Failing.left = 1
    group = Group(Echo, Failing, Echo)
    dropped = play(group, errors=ErrorPolicy("drop", min_group_size=2))
    # The others say what they would have said.
    assert dropped.trajectories == [undisturbed.trajectories[0], undisturbed.trajectories[2]]
    assert dropped.errors[0].error_message.startswith("Failing.step(), turn 0")
    assert len(dropped.get_total_rewards()) == 2


def test_a_group_with_too_few_left_is_left_out() -> None:
    Failing.left = 2
    dropped = play(Group(Echo, Failing, Failing), errors=ErrorPolicy("drop", min_group_size=2))
    assert (dropped.trajectories, len(dropped.errors), list(dropped.tags)) == ([], 2, ["scripted"])


def test_a_builder_that_fails_is_an_error_of_its_group() -> None:
    class Broken(Group):
        async def make_envs(self) -> Any:
            raise OSError("no board")

    with pytest.raises(EnvError, match=r"Broken\.make_envs\(\): OSError: no board"):
        play(Broken())
    dropped = play(Broken(), errors=ErrorPolicy("drop"))
    assert (dropped.trajectories, dropped.errors[0].error_type, dropped.errors[0].member) == ([], "OSError", None)
    with pytest.raises(EnvError, match="no environment, expected at least one"):
        play(Group())


class Unlikely(Echo):
    """Gives a reward that is none."""

    given: Any = float("nan")

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        result = await super().step(action)
        result.reward = self.given
        return result


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", None, [1.0]])
def test_a_reward_that_is_no_number_is_refused(reward: Any) -> None:
    Unlikely.given = reward
    with pytest.raises(EnvError, match=r"Unlikely\.step\(\), turn 0: .*reward: got .*expected a finite number"):
        play(Group(Unlikely))


def test_rewards_of_the_group_are_checked_and_added() -> None:
    class Judged(Group):
        given: Any = ((0.5, {"judged": 1.0}), (-0.5, {}))

        async def compute_group_rewards(self, trajectories: Any, envs: Any) -> Any:
            assert len(trajectories) == len(envs) == 2
            return self.given

    group = play(Judged(Echo, Echo))
    assert group.get_total_rewards() == [group.trajectories[0].reward + 0.5, group.trajectories[1].reward - 0.5]
    assert group.metrics == [{"judged": 1.0}, {}]
    Judged.given = [(0.0, {})]
    with pytest.raises(EnvError, match="1 rewards, expected 2, one for each episode"):
        play(Judged(Echo, Echo))
    Judged.given = [(float("nan"), {})] * 2
    with pytest.raises(EnvError, match="reward: got nan"):
        play(Judged(Echo, Echo))


class Refusing(ScriptedPolicy):
    error: Exception = RequestFailedError("prompt[3]: got 999", "f1", RequestErrorCategory.USER)

    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


def test_an_observation_that_the_service_refuses_is_the_environments_error() -> None:
    with pytest.raises(EnvError, match=r"Echo: observation: prompt\[3\]: got 999"):
        play(Group(Echo), Refusing())
    dropped = play(Group(Echo, Echo), Refusing(), errors=ErrorPolicy("drop"))
    assert dropped.trajectories == []


@pytest.mark.parametrize(
    "error",
    [NotFoundError("no such sampler", status_code=404), RequestFailedError("oom", "f", RequestErrorCategory.SERVER)],
)
def test_an_error_of_the_service_is_not_borne(error: Exception) -> None:
    policy = Refusing()
    policy.error = error
    with pytest.raises(type(error)):
        play(Group(Echo, Echo), policy, errors=ErrorPolicy("drop"))
