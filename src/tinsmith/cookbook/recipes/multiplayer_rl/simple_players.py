"""Players without a model, for comparison: they play the same games, and what they come to is measured likewise."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from statistics import fmean

from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_env import SearchEnv
from tinsmith.cookbook.renderers.messages import get_text_content

# Yields what it says, and is sent what it is told.
Player = Generator[str, str, None]


def measured(games: Iterable[tuple[SearchEnv, Player]]) -> dict[str, float]:
    """Play games side by side; return the means of their rewards and of what environments measure.

    Raises:
        TinsmithError: an answerer failed.
    """
    return asyncio.run(_all(list(games)))


async def _all(games: list[tuple[SearchEnv, Player]]) -> dict[str, float]:
    found = await asyncio.gather(*(_play(env, player) for env, player in games))
    return {name: fmean(each[name] for each in found) for name in found[0]}


async def _play(env: SearchEnv, player: Player) -> dict[str, float]:
    await env.initial_observation()
    said, reward = next(player), 0.0
    while True:
        result = await env.step({"role": "assistant", "content": said})
        reward += result.reward
        if result.episode_done:
            return {"reward": reward, **result.metrics}
        said = player.send(get_text_content(env.messages[-1]))
