"""A policy that says what a test wants said, in the chat format of its renderer, and one episode played with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinsmith import ModelInput
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl import RepeatedEnv, RolloutLimits, TokensWithLogprobs, Trajectory
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings, do_group_rollout


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: Mapping[str, Any], content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def turn_tokens(renderer: Renderer, said: str | Mapping[str, Any] | list[int]) -> list[int]:
    """Return the ids that a model samples to say something: ids as they are, a text as it is spelled (its control
    tokens are some), a message as the format has it, each to the end of its turn."""
    if isinstance(said, list):
        return said
    if isinstance(said, str):
        return renderer.encoder.encode_prefill(said, [])  # pyright: ignore[reportAttributeAccessIssue]
    asked = [{"role": "user", "content": "?"}]
    prompt = renderer.build_generation_prompt(asked).length
    tokens = renderer.build_supervised_example([*asked, said]).tokens[prompt:]
    ends = renderer.get_stop_sequences()
    return tokens[: next(place for place, token in enumerate(tokens) if token in ends) + 1]


@dataclass
class SpeakingPolicy:
    """Says one thing after the other; of `read` are the prompts, in order."""

    renderer: Renderer
    says: Sequence[str | Mapping[str, Any] | list[int]]
    context_length: int | None = None
    step: int = 0
    read: list[list[int]] = field(default_factory=list)

    async def sample(
        self, observation: ModelInput, stop: Any, *, max_tokens: int | None, seed: int, num_samples: int = 1
    ) -> list[TokensWithLogprobs]:
        assert num_samples == 1
        self.read.append(observation.to_ints())
        await asyncio.sleep(0)
        tokens = turn_tokens(self.renderer, self.says[len(self.read) - 1])
        kept = tokens if max_tokens is None else tokens[:max_tokens]
        return [TokensWithLogprobs(kept, [-0.5] * len(kept), "stop" if kept == tokens else "length")]

    def texts(self) -> list[str]:
        """Return what was read, as text."""
        return [self.renderer.tokenizer.decode(tokens) for tokens in self.read]


def play(
    renderer: Renderer, make: Callable[[], Any], says: Sequence[Any], *, context: int | None = None, **limits: Any
) -> tuple[Trajectory, SpeakingPolicy]:
    """Play one episode on a loop of its own."""
    policy = SpeakingPolicy(renderer, says, context)
    settings = RolloutSettings(renderer, RolloutLimits(**limits), ErrorPolicy())
    rollout = do_group_rollout(RepeatedEnv(make, 1), policy, settings, seed=0)  # pyright: ignore[reportArgumentType]
    (trajectory,) = asyncio.run(rollout).trajectories
    return trajectory, policy
