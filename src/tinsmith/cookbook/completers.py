"""Sampled turns: a sampler, and the renderer that asks it and reads what it says.

Everything that one call asks for is submitted before the first answer is waited for, so that the service samples side
by side. Request i of a call takes `seed + i`: equal prompts get answers of their own, and the same call the same ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tinsmith import APIFuture, ModelInput, SampleResponse, SamplingClient, SamplingParams, ServiceClient
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.renderers import Message, Renderer, TurnEnd

Conversations = Sequence[Sequence[Mapping[str, Any]]]
ToolsOfEach = Sequence[Sequence[Mapping[str, Any]] | None]


class SampledTurn(NamedTuple):
    """One sampled turn.

    Attributes:
        tokens: T ids as they were sampled, the end marker included: what a trainer learns from. Text that is encoded
            anew may have other ids.
        logprobs: T numbers, of the distribution that was sampled from.
        message: what the tokens say.
        end: why the turn ended.
    """

    tokens: list[int]
    logprobs: list[float]
    message: Message
    end: TurnEnd


class Completer:
    """Completes prompts with turns of the assistant.

    Attributes:
        sampler: who answers.
        renderer: of the sampler's model.
    """

    def __init__(self, sampler: SamplingClient, renderer: Renderer) -> None:
        self.sampler = sampler
        self.renderer = renderer

    @classmethod
    def open(
        cls,
        service: ServiceClient,
        *,
        base_model: str | None = None,
        model_path: str | None = None,
        renderer_name: str | None = None,
    ) -> Self:
        """Open a base model, or saved weights, with the renderer that fits.

        Args:
            service: which has them.
            base_model: a model's name or folder; or
            model_path: saved weights, `tinker://...`.
            renderer_name: chat format; None takes the model's own.
        """
        # The base's name comes from the service: of saved weights only it knows what they were trained on.
        sampler = service.create_sampling_client(model_path=model_path, base_model=base_model)
        return cls(sampler, renderer_of(sampler.get_base_model(), sampler.get_tokenizer(), renderer_name))

    def complete(
        self,
        prompts: Sequence[ModelInput],
        *,
        num_samples: int = 1,
        max_tokens: int | None,
        temperature: float,
        seed: int,
    ) -> list[list[SampledTurn]]:
        """Return `num_samples` turns for each prompt, in order.

        Args:
            prompts: each ends where the assistant begins to speak.
            num_samples: of each prompt, a group; they differ by their place in it.
            max_tokens: longest turn; None goes up to the context.
            temperature: 0 is greedy.
            seed: of the first prompt; prompt i takes `seed + i`.
        """
        # All in flight before the first result is asked for: the service batches what it has at the same time.
        futures = self._submit(prompts, num_samples, max_tokens, temperature, seed)
        return [self._read(future.result()) for future in futures]

    async def complete_async(
        self,
        prompts: Sequence[ModelInput],
        *,
        num_samples: int = 1,
        max_tokens: int | None,
        temperature: float,
        seed: int,
    ) -> list[list[SampledTurn]]:
        """Do the same on an event loop; the requests are those of `complete`."""
        futures = self._submit(prompts, num_samples, max_tokens, temperature, seed)
        return [self._read(response) for response in await asyncio.gather(*futures)]

    def _submit(
        self,
        prompts: Sequence[ModelInput],
        num_samples: int,
        max_tokens: int | None,
        temperature: float,
        seed: int,
    ) -> list[APIFuture[SampleResponse]]:
        # The marker that ends a turn is sampled, too, and kept: a trainer teaches the model to end.
        stop = self.renderer.get_stop_sequences()
        return [
            self.sampler.sample(
                prompt,
                num_samples=num_samples,
                sampling_params=SamplingParams(
                    # The samples of a group share the seed: the service draws each from (seed, place in the group,
                    # position).
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed + i,
                    stop=stop,
                ),
            )
            for i, prompt in enumerate(prompts)
        ]

    def _read(self, response: SampleResponse) -> list[SampledTurn]:
        turns: list[SampledTurn] = []
        for sequence in response.sequences:
            message, end = self.renderer.parse_response(sequence.tokens)
            turns.append(SampledTurn(list(sequence.tokens), list(sequence.logprobs or []), message, end))
        return turns


def sample_responses(
    sampler: SamplingClient,
    renderer: Renderer,
    conversations: Conversations,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    tools: ToolsOfEach | None = None,
) -> list[SampledTurn]:
    """Return one sampled turn per conversation, in order.

    Args:
        sampler: who answers.
        renderer: of the sampler's model.
        conversations: each ends with what is to be answered.
        max_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of the first conversation; conversation i takes `seed + i`.
        tools: of each conversation, as its row has them; None where none has any.
    """
    offered = [None] * len(conversations) if tools is None else tools
    prompts = [
        renderer.build_generation_prompt(conversation, tools=own)
        for conversation, own in zip(conversations, offered, strict=True)
    ]
    groups = Completer(sampler, renderer).complete(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
    # One sample each, so a group is its only turn.
    return [turn for (turn,) in groups]


def sample_answers(
    sampler: SamplingClient,
    renderer: Renderer,
    conversations: Conversations,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    tools: ToolsOfEach | None = None,
) -> list[str]:
    """Return the text of one answer per conversation, in order; arguments as for `sample_responses`."""
    turns = sample_responses(
        sampler, renderer, conversations, max_tokens=max_tokens, temperature=temperature, seed=seed, tools=tools
    )
    return [str(turn.message["content"]) for turn in turns]
