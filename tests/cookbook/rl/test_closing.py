"""Environments are closed when their group has ended, however that was, and before the group is cleaned up."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from tests.cookbook.rl.scripted import Echo, Group, ScriptedPolicy, settings
from tinsmith.cookbook.rl import EnvError, EnvFromMessageEnv, ToolEnv
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout


class Opened(Echo):
    """Notes when it is closed; may fail in its first turn, or where it is closed."""

    def __init__(self, closed: list[str], name: str, *, fails: str = "") -> None:
        super().__init__()
        self.closed, self.name, self.fails = closed, name, fails

    async def step(self, action: list[int], *, extra: Any = None) -> Any:
        if self.fails == "step":
            raise ValueError("no luck")
        return await super().step(action)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed.append(self.name)
        if self.fails == "close":
            raise OSError("stuck")


class PlainOpened:
    """The plain form, whose `close` is plain as well."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed

    def initial_observation(self) -> list[int]:
        return [1, 2]

    def step(self, action: int) -> tuple[list[int], float, bool]:
        return [], 1.0, True

    def close(self) -> None:
        self.closed.append("plain")


class Noting(Group):
    def __init__(self, closed: list[str], *make: Any) -> None:
        super().__init__(*make)
        self.closed = closed

    async def cleanup(self) -> None:
        await super().cleanup()
        self.closed.append("group")


def play(closed: list[str], *make: Any, errors: ErrorPolicy | None = None) -> None:
    asyncio.run(do_group_rollout(Noting(closed, *make), ScriptedPolicy(), settings(errors), seed=0))


def test_every_form_is_closed_before_its_group_is_cleaned_up() -> None:
    closed: list[str] = []
    play(closed, partial(Opened, closed, "a"), partial(PlainOpened, closed), Echo)
    assert sorted(closed[:2]) == ["a", "plain"]
    assert closed[2:] == ["group"]


def test_the_others_of_a_group_that_failed_are_closed_too() -> None:
    closed: list[str] = []
    with pytest.raises(EnvError, match="no luck"):
        play(closed, partial(Opened, closed, "a"), partial(Opened, closed, "b", fails="step"))
    assert sorted(closed) == ["a", "b", "group"]
    again: list[str] = []
    errors = ErrorPolicy("drop", min_group_size=1)
    play(again, partial(Opened, again, "a"), partial(Opened, again, "b", fails="step"), errors=errors)
    assert sorted(again) == ["a", "b", "group"]


def test_one_that_cannot_be_closed_is_named_and_keeps_nobody_from_closing() -> None:
    closed: list[str] = []
    with pytest.raises(EnvError, match=r"Opened.close\(\): OSError: stuck"):
        play(
            closed,
            partial(Opened, closed, "a"),
            partial(Opened, closed, "b", fails="close"),
            partial(Opened, closed, "c"),
        )
    assert sorted(closed) == ["a", "b", "c", "group"]


def test_an_environment_of_messages_is_closed_through_its_wrapper() -> None:
    closed: list[str] = []

    class Shop(ToolEnv):
        def __init__(self) -> None:
            super().__init__([{"role": "user", "content": "?"}], (), lambda _: 0.0)

        async def close(self) -> None:
            closed.append("shop")

    play(closed, lambda: EnvFromMessageEnv(settings().renderer, Shop()))
    assert closed == ["shop", "group"]
