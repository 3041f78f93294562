"""A policy that is a function: it is shown the conversation's text and says what the function returns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.cookbook.rl.scripted import settings, tiny_renderer
from tinsmith import ModelInput
from tinsmith.cookbook.rl import TokensWithLogprobs, TrajectoryGroup
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import do_group_rollout
from tinsmith.cookbook.tokenizer_utils import get_tokenizer

RENDERER = tiny_renderer()
_TOKENIZER = get_tokenizer("tinsmith-tiny")
_SECONDS = 20.0

# From what the policy reads to what it says; the random numbers follow from the rollout's seed.
Say = Callable[[str, Random], str]


@dataclass
class Speaker:
    """Says what a function makes of the conversation."""

    say: Say
    context_length: int | None = None
    step: int = 0
    temperature: float = 1.0
    sampler: Any = None
    read: list[str] = field(default_factory=list)

    async def sample(
        self, observation: ModelInput, stop: Any, *, max_tokens: int | None, seed: int, num_samples: int = 1
    ) -> list[TokensWithLogprobs]:
        text = _TOKENIZER.decode(observation.to_ints())
        self.read.append(text)
        await asyncio.sleep(0)
        said: list[TokensWithLogprobs] = []
        for place in range(num_samples):
            tokens = [*_TOKENIZER.encode(self.say(text, Random(f"{seed}-{place}"))), *_TOKENIZER.encode("<|end|>")]
            cut = max_tokens is not None and len(tokens) > max_tokens
            tokens = tokens[:max_tokens]
            said.append(TokensWithLogprobs(tokens, [0.0] * len(tokens), "length" if cut else "stop"))
        return said


def played(
    builder: Any, policy: Any, errors: ErrorPolicy | None = None, *, seed: int = 0, **limits: Any
) -> TrajectoryGroup:
    """Play a group, and fail where somebody waits for ever."""

    async def in_time() -> TrajectoryGroup:
        return await asyncio.wait_for(do_group_rollout(builder, policy, settings(errors, **limits), seed), _SECONDS)

    return asyncio.run(in_time())


def turns(text: str) -> list[str]:
    """Return the turns of a conversation as the policy reads it, who speaks in front of each."""
    return re.findall(r"<\|(?:system|user|assistant)\|>[^<]*", text)


def metrics_of(group: TrajectoryGroup, place: int = 0) -> dict[str, float]:
    """Return what was measured last in an episode."""
    return dict(group.trajectories[place].transitions[-1].metrics)
