"""Errors of environments, told from those of the service, and what is done about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tinsmith.cookbook.rl.environment import StepResult
from tinsmith.cookbook.rl.trajectories import RolloutError
from tinsmith.types.errors import (
    APIStatusError,
    RequestErrorCategory,
    RequestFailedError,
    TinsmithError,
    UserError,
    invalid,
)


class EnvError(TinsmithError):
    """An environment, or the builder of its group, failed; its own error is the cause.

    Attributes:
        member: which episode of the group; None where the whole group failed.
    """

    def __init__(self, message: str, member: int | None = None) -> None:
        super().__init__(message)
        self.member = member

    def told(self) -> RolloutError:
        """Return the error as a group keeps it."""
        cause = self.__cause__ or self
        return RolloutError(type(cause).__name__, str(self), self.member)


@dataclass(frozen=True)
class ErrorPolicy:
    """What is done where an environment fails.

    Attributes:
        on_error: `fail` ends the run; `retry` plays the whole group again; `drop` goes on without the failed episodes.
        retries: how often a group is played again before the error ends the run.
        min_group_size: with `drop`, episodes that must be left; a group with fewer is left out of its batch.
    """

    on_error: Literal["fail", "retry", "drop"] = "fail"
    retries: int = 3
    min_group_size: int = 2


@contextmanager
def of_environment(env: Any, what: str, member: int | None = None) -> Iterator[None]:
    """Turn any error inside into an `EnvError` that names the environment and what it was doing."""
    try:
        yield
    except Exception as error:
        # A KeyError's own text is a name in quotes: the class says what it means.
        raise EnvError(f"{type(env).__name__}.{what}: {type(error).__name__}: {error}", member) from error


@contextmanager
def of_observation(env: Any, member: int | None) -> Iterator[None]:
    """Turn the service's refusal of an observation into the environment's error, and let all other errors through."""
    try:
        yield
    except (UserError, RequestFailedError, APIStatusError) as error:
        if not _about_the_request(error):
            raise
        raise EnvError(f"{type(env).__name__}: observation: {error}", member) from error


def about_the_sampler(error: Exception) -> bool:
    """Return whether the service has the sampler no more: its session has ended, or the service was started anew."""
    if isinstance(error, RequestFailedError):
        # Errors of a request name the field that they are about.
        return error.category is RequestErrorCategory.USER and "sampling_session_id" in error.message
    return isinstance(error, APIStatusError) and error.status_code in (404, 410)


def _about_the_request(error: Exception) -> bool:
    if about_the_sampler(error):
        return False
    if isinstance(error, RequestFailedError):
        return error.category is RequestErrorCategory.USER
    return isinstance(error, UserError) or (isinstance(error, APIStatusError) and error.status_code in (400, 422))


def check_step(result: Any) -> StepResult:
    """Return what an environment answered, checked.

    Raises:
        UserError: it is no `StepResult`, or its reward is no finite number.
    """
    if not isinstance(result, StepResult):
        raise invalid("step()", result, "a StepResult")
    check_reward("reward", result.reward)
    for name, part in result.reward_parts.items():
        check_reward(f"reward_parts[{name!r}]", part)
    return result


def check_reward(field: str, value: Any) -> None:
    """Check that a reward is a finite number: one that is not would make every weight of the adapter NaN.

    Raises:
        UserError: it is not.
    """
    try:
        if isinstance(value, str) or not math.isfinite(value):
            raise UserError("")
    except (TypeError, UserError):
        raise invalid(field, value, "a finite number") from None
