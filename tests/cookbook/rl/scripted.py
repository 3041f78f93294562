"""A policy that says what follows from its seed, without a service, and environments to try it on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tinsmith import ModelInput
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl import Env, EnvGroupBuilder, RolloutLimits, StepResult, TokensWithLogprobs
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings
from tinsmith.cookbook.tokenizer_utils import get_tokenizer

VOCABULARY = 100


def tiny_renderer() -> Renderer:
    return renderer_of("tinsmith-tiny", get_tokenizer("tinsmith-tiny"), None)


@dataclass
class ScriptedPolicy:
    """Says `length` tokens that follow from seed, place and what it read."""

    context_length: int | None = None
    length: int = 3
    step: int = 0
    temperature: float = 1.0
    sampler: Any = None

    def __post_init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def sample(
        self, observation: ModelInput, stop: Any, *, max_tokens: int | None, seed: int, num_samples: int = 1
    ) -> list[TokensWithLogprobs]:
        self.asked.append({"seed": seed, "max_tokens": max_tokens, "num_samples": num_samples, "stop": stop})
        await asyncio.sleep(0)
        said = []
        for place in range(num_samples):
            drawn = Random(f"{seed} {place} {observation.to_ints()}")
            count = self.length if max_tokens is None else min(self.length, max_tokens)
            tokens = [drawn.randrange(VOCABULARY) for _ in range(count)]
            ended = "stop" if count == self.length else "length"
            said.append(TokensWithLogprobs(tokens, [-drawn.random() for _ in tokens], ended))
        return said


class Echo(Env):
    """Appends one token after each action and ends after so many turns; the reward is a sum of what was said."""

    def __init__(self, turns: int = 2, prompt: Sequence[int] = (1, 2), delay: float = 0.0) -> None:
        self.turns = turns
        self.read = list(prompt)
        self.delay = delay

    async def initial_observation(self) -> Any:
        await asyncio.sleep(self.delay)
        return ModelInput.from_ints(self.read), [7]

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        await asyncio.sleep(self.delay)
        self.turns -= 1
        self.read = [*self.read, *action, 5]
        return StepResult(float(sum(action) % 3), self.turns <= 0, ModelInput.from_ints(self.read))


class Group(EnvGroupBuilder):
    """A group of environments that are made by functions; counts how often it was made and cleaned up."""

    def __init__(self, *make: Any) -> None:
        self.make = make
        self.made = self.cleaned = 0

    async def make_envs(self) -> Sequence[Any]:
        self.made += 1
        return [make() for make in self.make]

    async def cleanup(self) -> None:
        self.cleaned += 1

    def logging_tags(self) -> Sequence[str]:
        return ["scripted"]


def settings(errors: ErrorPolicy | None = None, **limits: Any) -> RolloutSettings:
    return RolloutSettings(tiny_renderer(), RolloutLimits(**limits), errors or ErrorPolicy())
