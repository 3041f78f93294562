"""Batches of rollouts: how far sampling runs ahead, in which order groups come, and that no error is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.cookbook.rl.scripted import Echo, Group, ScriptedPolicy, settings
from tinsmith.cookbook.rl import EnvError, EnvGroupBuilder, RLDataset, TrajectoryGroup
from tinsmith.cookbook.rl.rollouts import rollout_thread
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.rollout_batches import RolloutBatches, RolloutPlan
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.types.errors import InternalServerError, NotFoundError

STEPS, SIZE = 6, 4


class Sampler:
    """Weights that are there at once, or fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __await__(self) -> Generator[Any, None, Any]:
        if self.error is not None:
            raise self.error
        yield from asyncio.sleep(0).__await__()
        return self


class Watched(Echo):
    """Notes the batches that have begun."""

    def __init__(self, batch: int, begun: list[int], delay: float) -> None:
        super().__init__(2, (1, batch + 2), delay)
        self.batch, self.begun = batch, begun

    async def initial_observation(self) -> Any:
        self.begun.append(self.batch)
        return await super().initial_observation()


class Batches(RLDataset):
    """Groups of one slow or quick episode; `make` may stand in for one."""

    def __init__(self, clock: int = 0, make: Callable[[int, int], Any] | None = None) -> None:
        self.clock, self.make = clock, make
        self.begun: list[int] = []

    def __len__(self) -> int:
        return STEPS

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        delays = Random(f"{self.clock} {index}")
        given = [Group(partial(Watched, index, self.begun, delays.random() / 100)) for _ in range(SIZE)]
        return [self.make(index, i) or group if self.make else group for i, group in enumerate(given)]


@pytest.fixture
def thread() -> Iterator[RolloutThread]:
    with RolloutThread() as opened:
        yield opened


def open_batches(
    thread: RolloutThread, data: Batches, ahead: int = 0, policy: Any = None, errors: ErrorPolicy | None = None
) -> RolloutBatches:
    plan = RolloutPlan(data, settings(errors), seed=5, steps=STEPS, max_steps_off_policy=ahead)
    return RolloutBatches(plan, thread, policy or ScriptedPolicy(), ScriptedPolicy)


def train(batches: RolloutBatches, ahead: int, wait: float = 0.0) -> list[list[TrajectoryGroup]]:
    found = []
    for step in range(STEPS):
        found.append(batches.in_order(step))
        time.sleep(wait)
        batches.publish(Sampler(), step + 1, ahead)  # pyright: ignore[reportArgumentType]
    return found


def test_synchronous_rollouts_repeat_to_the_token(thread: RolloutThread) -> None:
    opened = [open_batches(thread, Batches(clock)) for clock in (0, 1)]
    runs = [train(batches, 0) for batches in opened]
    assert runs[0] == runs[1]
    assert all(group.sampler_step == step for step, groups in enumerate(runs[0]) for group in groups)
    # No two groups are played alike, of one batch or of two.
    said = [str(group.trajectories) for groups in runs[0] for group in groups]
    assert len(set(said)) == STEPS * SIZE


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_nothing_is_trained_that_is_older_than_the_dial_says(thread: RolloutThread, ahead: int) -> None:
    runs = train(open_batches(thread, Batches(), ahead), ahead, wait=0.02)
    ages = [step - group.sampler_step for step, groups in enumerate(runs) for group in groups]
    assert 0 < max(ages) <= ahead
    assert min(ages) >= 0
    assert [len(groups) for groups in runs] == [SIZE] * STEPS


def test_sampling_runs_ahead_as_far_as_the_dial_says_and_no_further(thread: RolloutThread) -> None:
    data = Batches()
    batches = open_batches(thread, data, ahead=2)
    batches.in_order(0)
    time.sleep(0.3)  # nothing is published: batches 0, 1 and 2 are admitted
    assert sorted(set(data.begun)) == [0, 1, 2]
    batches.publish(Sampler(), 1, 0)  # pyright: ignore[reportArgumentType]
    time.sleep(0.2)  # held back: what was admitted before stays, nothing new is
    assert sorted(set(data.begun)) == [0, 1, 2]
    batches.publish(Sampler(), 2, 1)  # pyright: ignore[reportArgumentType]
    batches.in_order(3)
    assert sorted(set(data.begun)) == [0, 1, 2, 3]


def test_no_more_groups_are_played_at_once_than_a_batch_has(thread: RolloutThread) -> None:
    playing, most = 0, 0

    class Counted(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            nonlocal playing, most
            playing += 1
            most = max(most, playing)
            await asyncio.sleep(0.01)
            playing -= 1
            return await super().step(action)

    train(open_batches(thread, Batches(make=lambda *_: Group(Counted)), ahead=4), 4)
    assert most == SIZE


def test_groups_stream_as_they_finish(thread: RolloutThread) -> None:
    slow_first = Batches(make=lambda batch, place: Group(lambda: Echo(1, (1, place), 0.05 * (SIZE - place))))
    batches = open_batches(thread, slow_first)
    prompts = [group.trajectories[0].transitions[0].ob.to_ints()[1] for group in batches.as_finished(0)]
    assert prompts == [3, 2, 1, 0]
    assert batches.size(0) == SIZE
    assert batches.waited_seconds > 0.1


def test_an_error_of_an_environment_comes_to_the_trainer(thread: RolloutThread) -> None:
    class Fails(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            raise RuntimeError("out of cards")

    failing = Batches(make=lambda batch, place: Group(Fails) if (batch, place) == (1, 2) else None)
    batches = open_batches(thread, failing)
    batches.in_order(0)
    batches.publish(Sampler(), 1, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(EnvError, match="out of cards"):
        batches.in_order(1)
    with pytest.raises(EnvError, match="out of cards"):
        batches.in_order(2)


def test_weights_that_the_service_could_not_take_come_to_the_trainer(thread: RolloutThread) -> None:
    batches = open_batches(thread, Batches())
    batches.in_order(0)
    batches.publish(Sampler(InternalServerError("disk", status_code=500)), 1, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InternalServerError, match="disk"):
        batches.in_order(1)


class Expired(ScriptedPolicy):
    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise NotFoundError("sampler: expired", status_code=404)


def test_a_sampler_that_has_expired_is_made_anew_once(thread: RolloutThread) -> None:
    undisturbed = open_batches(thread, Batches())
    batches = open_batches(thread, Batches(), policy=Expired())
    assert batches.in_order(0) == undisturbed.in_order(0)
    assert batches.renewed == 1


def test_a_batch_in_which_every_group_failed_is_a_batch_of_empty_groups(thread: RolloutThread) -> None:
    class Fails(Echo):
        async def initial_observation(self) -> Any:
            raise RuntimeError("closed")

    batches = open_batches(thread, Batches(make=lambda *_: Group(Fails, Fails)), errors=ErrorPolicy("drop"))
    groups = batches.in_order(0)
    assert [(group.trajectories, len(group.errors)) for group in groups] == [([], 2)] * SIZE


def test_code_that_blocks_all_environments_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollout_thread, "BLOCKED_AFTER", 0.4)

    async def an_environment_that_blocks() -> None:
        time.sleep(1.0)  # noqa: ASYNC251, what it is here to do

    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"), RolloutThread() as thread:
        thread.submit(an_environment_that_blocks()).result()
        time.sleep(0.3)
        assert thread.blocked_seconds > 0.5
    assert "an_environment_that_blocks" in caplog.text
    assert caplog.text.count("has blocked all environments") == 1


def test_episodes_that_are_left_when_the_run_ends_are_cleaned_up() -> None:
    ended: list[str] = []

    class Waits(Echo):
        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("step")

    group = Group(Waits)
    with RolloutThread() as thread:
        open_batches(thread, Batches(make=lambda *_: group))
        time.sleep(0.3)
    assert ended == ["step"] * SIZE
    assert group.cleaned == SIZE
