"""`AgentEnv`: an agent program as an environment; the calls that it makes of its chat client are the episode."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.agents.chat_client import ChatClient, ChatRequest
from tinsmith.cookbook.rl.environment import Action, ActionExtra, Env, Observation, StepResult, StopCondition
from tinsmith.cookbook.rl.tools.tool_env import EpisodeGrade, grade_of

RunAgent = Callable[[ChatClient], Awaitable["float | EpisodeGrade"]]

# Seconds that an agent has to end once it is told to; one that takes longer is left behind.
_LAST_WORDS = 5.0


class AgentEnv(Env):
    """A program that calls a chat model, as an environment in which the policy is that model.

    Each call is an action, by the ids that were sampled; the messages between the calls are the agent's. Where the
    agent sends back what was sampled, the ids stay as they were, so that a conversation that grows is one sequence.

    An agent that raises is an environment that fails. One that a limit ends, or whose group has failed, is cancelled
    where it waits; it may take five seconds to clean up.

    Args:
        renderer: of the model.
        run_agent: a coroutine function that is handed the client, and returns the reward, or an
            `EpisodeGrade`, when the agent is done.
        temperature: that the run samples at; calls that ask for another are refused.
    """

    def __init__(self, renderer: Renderer, run_agent: RunAgent, *, temperature: float = 1.0) -> None:
        self._renderer = renderer
        self._run_agent = run_agent
        self._temperature = temperature
        self._metrics: dict[str, float] = {"unparsed_calls": 0.0}

    async def initial_observation(self) -> tuple[Observation, StopCondition]:
        """Start the agent and return what it asks first.

        Raises:
            UserError: it returned without asking anything.
        """
        self._client = ChatClient(self._renderer, self._temperature)
        self._agent = asyncio.create_task(self._run())
        asked = await self._next()
        if isinstance(asked, EpisodeGrade):
            raise RuntimeError("the agent returned without a call of its client; there is nothing to train")
        self._asked = asked
        return asked.observation, self._renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Answer the agent with what was sampled, and return what it asks next, or its reward."""
        most = self._asked.max_tokens
        # Sampled up to here is what a shorter limit would have sampled.
        taken = action if most is None else action[:most]
        cut_off = len(taken) < len(action) or (extra or {}).get("stop_reason") == "length"
        for name, count in self._client.reply(self._asked, taken, cut_off=cut_off).items():
            self._metrics[name] += count
        asked = await self._next()
        if isinstance(asked, EpisodeGrade):
            metrics = {**self._metrics, **asked.metrics}
            return StepResult(
                asked.reward,
                True,
                metrics=metrics,
                logs=asked.logs,
                reward_parts=asked.reward_parts,
                taken=len(taken),
            )
        self._asked = asked
        return StepResult(0.0, False, asked.observation, metrics=dict(self._metrics), taken=len(taken))

    async def close(self) -> None:
        """Cancel the agent, where it has not ended."""
        agent: asyncio.Task[EpisodeGrade] | None = getattr(self, "_agent", None)
        if agent is None or agent.done():
            return
        self._client.end()
        agent.cancel()
        await asyncio.wait({agent}, timeout=_LAST_WORDS)

    async def _run(self) -> EpisodeGrade:
        try:
            return await grade_of(self._run_agent(self._client))
        except SystemExit as error:
            # Raised out of a task, it would end the loop and all that lives on it.
            raise RuntimeError(f"the agent called sys.exit({error.code!r})") from error
        finally:
            self._client.end()

    async def _next(self) -> ChatRequest | EpisodeGrade:
        """Wait for the agent: until it asks, or ends."""
        asking = asyncio.ensure_future(self._client.next_request())
        try:
            await asyncio.wait({asking, self._agent}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            if self._agent.cancelled():
                raise RuntimeError("the agent was cancelled from inside")
            return self._agent.result()
        finally:
            asking.cancel()
