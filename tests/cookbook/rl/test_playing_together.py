"""Environments that wait for one another, as players of one game do: in turn, reproducibly, and never in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from tests.cookbook.rl.scripted import ScriptedPolicy, settings
from tinsmith import ModelInput
from tinsmith.cookbook import notices
from tinsmith.cookbook.rl import EndReason, Env, EnvError, EnvGroupBuilder, StepResult, TrajectoryGroup
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout
from tinsmith.types.errors import RequestErrorCategory, RequestFailedError


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


class Table:
    """What two players share: who said what, whether one has got up, and whose turn it is."""

    def __init__(self) -> None:
        self.said: list[list[int]] = []
        self.gone = False
        self.turns = (asyncio.Event(), asyncio.Event())
        self.look()

    def is_over(self) -> bool:
        return self.gone or len(self.said) >= 5

    def look(self) -> None:
        for player, turn in enumerate(self.turns):
            if self.is_over() or len(self.said) % 2 == player:
                turn.set()
            else:
                turn.clear()


class Player(Env):
    """Reads all that was said before its turn; the game is over after five turns."""

    def __init__(self, table: Table, player: int, fails_at: int | None, delay: float) -> None:
        self.table, self.player, self.fails_at, self.delay = table, player, fails_at, delay

    async def initial_observation(self) -> Any:
        await asyncio.sleep(self.delay)
        await self.table.turns[self.player].wait()
        return self.read(), None

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        await asyncio.sleep(self.delay)
        if len(self.table.said) == self.fails_at:
            raise KeyError("board")
        self.table.said.append(action)
        self.table.look()
        await self.table.turns[self.player].wait()
        return StepResult(1.0, self.table.is_over(), self.read())

    def reward_at_limit(self, reason: str) -> float:
        self.table.gone = True
        self.table.look()
        return -1.0

    def read(self) -> ModelInput:
        return ModelInput.from_ints([1, *(token for turn in self.table.said for token in turn)])


class Pairs(EnvGroupBuilder):
    plays_together = True

    def __init__(self, pairs: int = 1, fails_at: int | None = None, clock: int = 0) -> None:
        self.pairs, self.fails_at, self.clock = pairs, fails_at, Random(clock)

    async def make_envs(self) -> Sequence[Any]:
        tables = [Table() for _ in range(self.pairs)]
        return [Player(table, p, self.fails_at, self.clock.random() / 100) for table in tables for p in (0, 1)]


def play(builder: Any, policy: Any = None, errors: ErrorPolicy | None = None, **limits: Any) -> TrajectoryGroup:
    async def in_time() -> TrajectoryGroup:
        rollout = do_group_rollout(builder, policy or ScriptedPolicy(), settings(errors, **limits), seed=3)
        return await asyncio.wait_for(rollout, 5.0)

    return asyncio.run(in_time())


def test_players_take_turns_and_the_same_seed_gives_the_same_game_whoever_is_quick() -> None:
    first, again = play(Pairs(3, clock=0)), play(Pairs(3, clock=1))
    assert first == again
    assert [len(trajectory.transitions) for trajectory in first.trajectories] == [3, 2] * 3
    one, two = first.trajectories[:2]
    for turn in range(2):
        said = two.transitions[turn].ac.tokens
        assert one.transitions[turn + 1].ob.to_ints()[-len(said) :] == said
    assert one.transitions[0].ac.tokens != first.trajectories[2].transitions[0].ac.tokens


@pytest.mark.parametrize("turn", range(5))
def test_a_player_that_fails_is_named_and_nobody_waits_for_its_move(turn: int) -> None:
    with pytest.raises(EnvError, match=rf"Player\.step\(\), turn {turn // 2}: KeyError: 'board'") as caught:
        play(Pairs(1, fails_at=turn))
    assert caught.value.member == turn % 2


def test_with_drop_the_whole_group_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    group = play(Pairs(2, fails_at=3), errors=ErrorPolicy("drop"))
    assert group.trajectories == []
    assert [error.error_type for error in group.errors] == ["KeyError"]
    assert "Player.step(), turn 1: KeyError: 'board'; the batch goes on without this group" in caplog.text


def test_an_observation_that_is_refused_keeps_nobody_waiting() -> None:
    class Refusing(ScriptedPolicy):
        async def sample(self, observation: ModelInput, *args: Any, **kwargs: Any) -> Any:
            if observation.length > 7:
                raise RequestFailedError("prompt: got 8 tokens", "f1", RequestErrorCategory.USER)
            return await super().sample(observation, *args, **kwargs)

    with pytest.raises(EnvError, match="Player: observation: prompt: got 8 tokens"):
        play(Pairs(), Refusing())
    assert play(Pairs(), Refusing(), ErrorPolicy("drop")).trajectories == []


def test_a_player_whom_a_limit_ends_tells_the_other() -> None:
    turns = play(Pairs(), max_turns=1)
    assert [t.end_reason for t in turns.trajectories] == [EndReason.MAX_TURNS, EndReason.DONE]
    assert [t.reward for t in turns.trajectories] == [0.0, 1.0]
    # Observations are 1, 4, 7, 10 tokens: the fourth turn, of the second player, has no room.
    context = play(Pairs(), ScriptedPolicy(context_length=10))
    assert [t.end_reason for t in context.trajectories] == [EndReason.DONE, EndReason.CONTEXT]


def test_a_game_that_takes_too_long_ends_for_both() -> None:
    class Slow(Pairs):
        async def make_envs(self) -> Sequence[Any]:
            table = Table()
            return [Player(table, 0, None, 0.0), Player(table, 1, None, 60.0)]

    group = play(Slow(), max_seconds=0.2)
    assert [t.end_reason for t in group.trajectories] == [EndReason.MAX_SECONDS] * 2
    assert [len(t.transitions) for t in group.trajectories] == [0, 0]
