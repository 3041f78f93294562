"""The plain form of an environment, `step(action) -> (observation, reward, done)`, as one that takes whole actions.

The policy samples a whole action; the environment is then fed its tokens one after the other. Where it appends tokens
or ends the episode in the middle, what was sampled behind that point is dropped: a sampled sequence up to any point
is what sampling token by token would have given.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

from tinsmith import ModelInput
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.environment import Action, ActionExtra, Observation, StepResult, StopCondition
from tinsmith.types.errors import invalid

# Plain code may wait, for a file or another program, and must not keep all other episodes waiting with it. Threads are
# started as they are needed; more than this many episodes that block at the same time stand in line.
_THREADS = ThreadPoolExecutor(64, thread_name_prefix="tinsmith-env")


class WholeActionEnv(Protocol):
    """An environment as rollouts use it."""

    async def initial_observation(self) -> tuple[Observation, StopCondition | None]:
        """Return what the policy reads first, and what ends its action."""
        ...

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Take an action and return what comes of it."""
        ...


def whole_action_env(env: Any, renderer: Renderer) -> WholeActionEnv:
    """Return an environment that takes whole actions: the given one, or one around a plain one.

    Args:
        env: an environment of either form.
        renderer: parses actions where `env.action_level` is `message`.

    Raises:
        UserError: it is no environment.
    """
    for method in ("initial_observation", "step"):
        if not callable(getattr(env, method, None)):
            raise invalid("environment", type(env).__name__, f"an object with a method {method}()")
    # Told by `async def`, so that neither form needs a base class: the course's environments have none.
    if inspect.iscoroutinefunction(env.step):
        return env
    return PlainEnv(env, renderer)


class PlainEnv:
    """A plain environment as one that takes whole actions.

    Args:
        env: has `initial_observation()`, `step(action)`, and perhaps `action_level` and `stop`, which ends an action.
        renderer: parses actions where the level is `message`.

    Raises:
        UserError: there is no such level.
    """

    def __init__(self, env: Any, renderer: Renderer) -> None:
        self._env = env
        self._renderer = renderer
        self._level: Literal["token", "message"] = getattr(env, "action_level", "token")
        if self._level not in ("token", "message"):
            raise invalid("action_level", self._level, "token or message")
        self._read: list[int] = []

    async def initial_observation(self) -> tuple[Observation, StopCondition | None]:
        """Return the environment's tokens; actions end where it says in `stop`, else where the model ends a turn."""
        tokens = await _in_thread(self._env.initial_observation)
        self._read = _ids("initial_observation()", tokens)
        # Messages are parsed by the renderer, so they end as it says.
        default = self._renderer.get_stop_sequences() if self._level == "message" else None
        return ModelInput.from_ints(self._read), getattr(self._env, "stop", default)

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Feed the environment an action, token by token or as one message."""
        feed = self._feed_message if self._level == "message" else self._feed_tokens
        appended, reward, done, taken = await _in_thread(lambda: feed(action))
        self._read += [*action[:taken], *appended]
        return StepResult(reward, done, ModelInput.from_ints(self._read), taken=taken)

    def reward_at_limit(self, reason: str) -> float:
        """Return what the environment says, 0 where it says nothing."""
        given = getattr(self._env, "reward_at_limit", None)
        return given(reason) if given else 0.0

    async def close(self) -> None:
        """Close the environment, where there is something to close."""
        given = getattr(self._env, "close", None)
        if given:
            await _in_thread(given)

    def _feed_message(self, action: Action) -> tuple[list[int], float, bool, int]:
        message, _ = self._renderer.parse_response(action)
        appended, reward, done = _result(self._env.step(message))
        return appended, reward, done, len(action)

    def _feed_tokens(self, action: Action) -> tuple[list[int], float, bool, int]:
        total = 0.0
        for count, token in enumerate(action, start=1):
            appended, reward, done = _result(self._env.step(token))
            total += reward
            if appended or done:
                return appended, total, done, count
        return [], total, False, len(action)


async def _in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def _result(given: Any) -> tuple[list[int], float, bool]:
    if not isinstance(given, tuple) or len(given) != 3:
        raise invalid("step()", given, "(tokens to append, reward, whether the episode is over)")
    return _ids("step()[0]", given[0]), given[1], bool(given[2])


def _ids(field: str, tokens: Sequence[int]) -> list[int]:
    if isinstance(tokens, str | bytes) or not hasattr(tokens, "__iter__"):
        raise invalid(field, tokens, "a list of token ids")
    return ModelInput.from_ints(tokens).to_ints()
