"""A conversation with a model or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import tinsmith
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.renderers import Message, Renderer


@dataclass
class Chat:
    """Keeps what was said and asks for the next answer.

    Attributes:
        sampler: who answers.
        renderer: of the sampler's model.
        params: how answers are sampled.
        messages: the conversation so far.
    """

    sampler: tinsmith.SamplingClient
    renderer: Renderer
    params: tinsmith.SamplingParams
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        *,
        model_path: str | None = None,
        base_model: str | None = None,
        base_url: str | None = None,
        renderer_name: str | None = None,
        temperature: float = 0.7,
        max_tokens: int | None = None,
        system: str | None = None,
    ) -> Self:
        """Begin a conversation.

        Args:
            model_path: saved weights, `tinker://...`; or
            base_model: a model's name or folder.
            base_url: the service; None takes `TINSMITH_BASE_URL`, else the embedded one.
            renderer_name: chat format; None takes the model's own.
            temperature: 0 is greedy.
            max_tokens: longest answer; None goes up to the context.
            system: a system message to begin with.

        Raises:
            TinsmithError: there is no such model or checkpoint.
        """
        service = tinsmith.ServiceClient(base_url=base_url)
        opened = Completer.open(service, base_model=base_model, model_path=model_path, renderer_name=renderer_name)
        # No seed: somebody who asks twice wants to hear something else.
        params = tinsmith.SamplingParams(
            temperature=temperature, max_tokens=max_tokens, stop=opened.renderer.get_stop_sequences()
        )
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        return cls(opened.sampler, opened.renderer, params, messages)

    def say(self, text: str) -> str:
        """Add a message of the user's, and return the answer, which becomes part of the conversation."""
        self.messages.append({"role": "user", "content": text})
        prompt = self.renderer.build_generation_prompt(self.messages)
        sampled = self.sampler.sample(prompt, num_samples=1, sampling_params=self.params).result().sequences[0]
        message = self.renderer.parse_response(sampled.tokens).message
        # The parsed message has its sampled ids, which go back into the next prompt as they are: encoding the text anew
        # could give others.
        self.messages.append(message)
        return str(message["content"])
