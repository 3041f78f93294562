"""`ChatClient`: answers an agent's chat completions by the policy, one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.agents.chat_objects import ChatCompletion, Choice, CompletionUsage, as_installed
from tinsmith.cookbook.rl.agents.sampled_turns import Restored, SampledTurns
from tinsmith.cookbook.rl.environment import Action, Observation
from tinsmith.types.errors import invalid

# What else may be asked for, where it asks for what happens anyway.
_AS_IT_IS: Mapping[str, tuple[Any, str]] = {
    "n": (1, "one call is one action of the episode"),
    "stream": (False, "an action is handed over as a whole"),
    "top_p": (1.0, "what is trained is sampled from the model's whole distribution"),
    "frequency_penalty": (0.0, "what is trained is sampled from the model's own distribution"),
    "presence_penalty": (0.0, "what is trained is sampled from the model's own distribution"),
    "logprobs": (False, "logprobs go to the trainer"),
    "tool_choice": ("auto", "nothing makes the policy call, or not call"),
    "parallel_tool_calls": (True, "the policy may make several calls in a turn"),
    "response_format": ({"type": "text"}, "nothing makes the policy keep to a format"),
}
# About the way of a request and the records that are kept of it, not about its answer.
_OF_THE_WAY = ("extra_headers", "extra_query", "metadata", "store", "user")


@dataclass
class ChatRequest:
    """A call that waits for the policy.

    Attributes:
        observation: what the policy reads.
        conversation: the same as messages.
        max_tokens: of the answer, as the agent asked; None leaves it to the run.
        model: the name that the agent asked for.
        answer: what the agent waits for.
    """

    observation: Observation
    conversation: Restored
    max_tokens: int | None
    model: str
    answer: asyncio.Future[ChatCompletion]


class ChatClient:
    """Stands where an agent program has its `openai.AsyncOpenAI`; the policy that is trained answers.

    What it has is `await client.chat.completions.create(model=, messages=, tools=, max_tokens=, temperature=)`. Calls
    that come at the same time are answered in the order in which they came. Of each, the tokens that were sampled
    become one action of the episode.

    Args:
        renderer: of the model.
        temperature: that the run samples at.

    Attributes:
        base_url: of no server; frameworks look whose it is.
    """

    base_url = "policy://"

    def __init__(self, renderer: Renderer, temperature: float) -> None:
        self.chat = _Chat(self)
        self._renderer = renderer
        self._temperature = temperature
        self._turns = SampledTurns()
        self._one = asyncio.Lock()
        self._requests: asyncio.Queue[ChatRequest] = asyncio.Queue()
        self._over = False
        self._count = 0

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"client.{name}: this client of an environment has client.chat.completions.create alone")

    # -- the environment's side ---------------------------------------------------------------------------------------

    async def next_request(self) -> ChatRequest:
        """Wait for the next call."""
        return await self._requests.get()

    def reply(self, request: ChatRequest, tokens: Action, *, cut_off: bool) -> dict[str, float]:
        """Answer a call with what was sampled; return what was measured.

        Args:
            request: the call.
            tokens: that were sampled, no more than it asked for.
            cut_off: whether the turn was cut off.
        """
        parsed = self._renderer.parse_response(tokens).message
        message = self._turns.add(request.conversation, parsed)
        reason = "length" if cut_off else "tool_calls" if message.tool_calls else "stop"
        read = request.observation.length
        usage = CompletionUsage(prompt_tokens=read, completion_tokens=len(tokens), total_tokens=read + len(tokens))
        completion = ChatCompletion(
            id=f"chatcmpl-{self._count}",
            choices=[Choice(message=message, finish_reason=reason)],
            model=request.model,
            usage=usage,
        )
        self._count += 1
        # An agent that has stopped waiting gets no answer; what was sampled is an action all the same.
        if not request.answer.done():
            request.answer.set_result(as_installed(completion))
        return {"unparsed_calls": float(len(parsed.get("unparsed_tool_calls") or ()))}

    def end(self) -> None:
        """Answer no further calls."""
        self._over = True

    # -- the agent's side ---------------------------------------------------------------------------------------------

    async def ask(self, request: ChatRequest) -> ChatCompletion:
        """Hand a call to the policy and wait for its answer."""
        async with self._one:
            self._check_open()
            self._requests.put_nowait(request)
            return await request.answer

    def request(
        self,
        messages: Any,
        tools: Any,
        *,
        model: str,
        max_tokens: int | None,
        temperature: float | None,
    ) -> ChatRequest:
        """Return a call, rendered.

        Raises:
            UserError: the conversation, a tool or a number cannot be used.
        """
        self._check_open()
        if max_tokens is not None and (
            isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1
        ):
            raise invalid("max_tokens", max_tokens, "a number of at least 1, or None for as many as the run has")
        if temperature is not None and temperature != self._temperature:
            raise invalid(
                "temperature",
                temperature,
                f"none, or {self._temperature:g}, that of the run: what is trained is sampled at one temperature "
                "(`temperature` of AgentEnv says which that is)",
            )
        conversation = self._turns.restore(messages)
        observation = self._renderer.build_generation_prompt(conversation.messages, tools=tools)
        answer: asyncio.Future[ChatCompletion] = asyncio.get_running_loop().create_future()
        return ChatRequest(observation, conversation, max_tokens, model, answer)

    def _check_open(self) -> None:
        if self._over:
            raise RuntimeError("client: got a call after the episode had ended, expected none")


class _Chat:
    def __init__(self, client: ChatClient) -> None:
        self.completions = Completions(client)


class Completions:
    """`client.chat.completions`."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    async def create(
        self,
        *,
        messages: Sequence[Any],
        model: str = "policy",
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        temperature: float | None = None,
        **others: Any,
    ) -> ChatCompletion:
        """Let the policy answer a conversation.

        Args:
            messages: the conversation; turns of the policy may be the messages of earlier answers, or their dumps.
            model: any name; it is the policy that answers.
            tools: that the policy may call.
            max_tokens, max_completion_tokens: longest answer, where it is to be shorter than the run's `max_tokens`.
            temperature: None, or that of the run.
            others: the API's other arguments, where they ask for what happens anyway: `n=1`, `stream=False`, ...

        Raises:
            UserError: an argument cannot be honoured; it is named.
            RuntimeError: the episode has ended.
        """
        for name, value in others.items():
            if not _is_absent(value):
                _check_other(name, value)
        limits = [most for most in (max_tokens, max_completion_tokens) if not _is_absent(most)]
        request = self._client.request(
            messages,
            None if _is_absent(tools) else tools,
            model=model,
            max_tokens=limits[0] if limits else None,
            temperature=None if _is_absent(temperature) else temperature,
        )
        return await self._client.ask(request)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"client.chat.completions.{name}: this client of an environment has create alone")


def _is_absent(value: Any) -> bool:
    # Programs pass the sentinels of the `openai` package on, which say that an argument was not given.
    return value is None or type(value).__name__ in ("NotGiven", "Omit")


def _check_other(name: str, value: Any) -> None:
    if name in _OF_THE_WAY:
        return
    if name not in _AS_IT_IS:
        raise invalid(
            name,
            value,
            f"none: a policy takes model, messages, tools, max_tokens, temperature; as they are {', '.join(_AS_IT_IS)}",
        )
    expected, reason = _AS_IT_IS[name]
    if value != expected:
        raise invalid(name, value, f"{json.dumps(expected)}: {reason}")
