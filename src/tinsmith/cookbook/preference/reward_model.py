"""`RewardModel`: a scalar for any prompt and completion, from an adapter that any service serves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from tinsmith import APIFuture, ModelInput, SampleResponse, SamplingClient, SamplingParams, ServiceClient
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.preference.comparison import Messages
from tinsmith.cookbook.preference.pair_examples import render_answer
from tinsmith.cookbook.preference.reward_tokens import reward_tokens
from tinsmith.cookbook.renderers import Renderer
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.tensor import TensorData

# Of a score, in nats: float32 logprobs are right to about 1e-5.
_DECIMALS = 3
Said = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]


class RewardModel:
    """Scores completions: log p(good) - log p(bad) of two tokens that the model never says, behind the completion.

    The partition function cancels, so the score is linear in the last hidden state, as that of a model with a scalar
    head; see `reward_trainer` for how it is learned. Scores of one prompt can be compared, and only their differences
    mean something: exp(a - b) are the odds that the first is preferred.

    Args:
        sampler: the trained weights.
        renderer: of their model.
        context_length: tokens that the model reads; longer texts are cut at the end, as in training; None: unknown.
        name: for messages about its scores.

    Attributes:
        renderer: as given.

    Raises:
        UserError: the tokenizer has no such two tokens.
    """

    def __init__(
        self,
        sampler: SamplingClient,
        renderer: Renderer,
        *,
        context_length: int | None = None,
        name: str = "reward model",
    ) -> None:
        self.renderer = renderer
        self._sampler = sampler
        self._tokens = reward_tokens(renderer.tokenizer)
        self._name = name
        # The token that stands for a verdict is read as well, and the service samples one more.
        self._longest = None if context_length is None else context_length - 2

    @classmethod
    def open(cls, service: ServiceClient, model_path: str, *, renderer_name: str | None = None) -> Self:
        """Open trained weights.

        Args:
            service: which has them.
            model_path: `tinker://...` sampler weights, as `train_reward_model` saves them.
            renderer_name: chat format that they were trained with; None takes the model's own.

        Raises:
            TinsmithError: the service has no such weights.
        """
        sampler = service.create_sampling_client(model_path=model_path)
        base = sampler.get_base_model()
        lengths = {model.model_name: model.max_context_length for model in service.list_models()}
        renderer = renderer_of(base, sampler.get_tokenizer(), renderer_name)
        return cls(sampler, renderer, context_length=lengths.get(base), name=model_path)

    def score(self, prompt: Said, completion: Said, *, tools: Any = None) -> float:
        """Return the score of a completion.

        Args:
            prompt: a text, said by the user; or the messages so far.
            completion: a text, said by the assistant; a message, or several.
            tools: that the assistant may call.

        Raises:
            UserError: the conversation is not well formed.
            TinsmithError: the service failed, or the score is no finite number.
        """
        return self._read(self._ask(self.tokens_of(prompt, completion, tools)).result())

    def scores(self, answers: Sequence[tuple[Said, Said]]) -> list[float]:
        """Return the score of each (prompt, completion); all are in flight at the same time."""
        futures = [self._ask(self.tokens_of(prompt, completion)) for prompt, completion in answers]
        return [self._read(future.result()) for future in futures]

    async def score_async(self, prompt: Said, completion: Said, *, tools: Any = None) -> float:
        """Do as `score` on an event loop: a reward for environments."""
        return self._read(await self._ask(self.tokens_of(prompt, completion, tools)))

    async def scores_of_tokens(self, conversations: Sequence[Sequence[int]]) -> list[float]:
        """Return the scores of conversations that are tokens of this model already, the last turn's end included."""
        responses = await asyncio.gather(*(self._ask(list(tokens)) for tokens in conversations))
        return [self._read(response) for response in responses]

    def tokens_of(self, prompt: Said, completion: Said, tools: Any = None) -> list[int]:
        """Return the tokens of a conversation, as the model was trained on them.

        Raises:
            UserError: it is not well formed.
        """
        asked, answer = _messages(prompt, "prompt", "user"), _messages(completion, "completion", "assistant")
        if answer[0].get("role") != "assistant":
            raise invalid("completion[0].role", answer[0].get("role"), "assistant")
        return render_answer(self.renderer, asked, answer, tools).tokens

    def _ask(self, tokens: list[int]) -> APIFuture[SampleResponse]:
        if self._longest is not None and len(tokens) > self._longest:
            warn_once(
                f"scores of more than {self._longest} tokens",
                f"{self._name}: a conversation of {len(tokens)} tokens was cut to {self._longest}, behind which the "
                "model has room for no more than its verdict",
            )
            tokens = tokens[: self._longest]
        # [T, 2] for T + 1 tokens: nothing is asked but behind the last one of the conversation.
        targets = np.full((len(tokens), 2), -1, dtype=np.int64)
        targets[-1] = self._tokens
        return self._sampler.sample(
            ModelInput.from_ints([*tokens, self._tokens.good]),
            1,
            # Logprobs of a prompt are part of a sample, and one token is the shortest.
            SamplingParams(max_tokens=1, temperature=0.0),
            target_prompt_logprobs=TensorData.from_numpy(targets),
        )

    def _read(self, response: SampleResponse) -> float:
        found = response.target_prompt_logprobs
        if found is None:
            raise TinsmithError(f"{self._name}: the service gave no logprobs of the tokens that were asked for")
        good, bad = found.to_numpy()[-1]
        score = float(good) - float(bad)
        # A reward that is no number would make every weight of a policy that learns from it NaN.
        if not math.isfinite(score):
            raise TinsmithError(
                f"{self._name}: score: got {score} (logprobs {float(good)}, {float(bad)}), expected a finite number; "
                "its weights have diverged: train it anew, with a lower learning_rate"
            )
        # What is computed beside a request moves its last bits. Equal answers must have equal scores: a group of them
        # would be told apart by noise, which dividing by its deviation makes large.
        return round(score, _DECIMALS)


def _messages(said: Said, field: str, role: str) -> Messages:
    if isinstance(said, str):
        if not said.strip() and role == "user":
            raise invalid(field, said, "a text that is not empty")
        return [{"role": role, "content": said}]
    found = [said] if isinstance(said, Mapping) else list(said)
    if not found:
        raise invalid(field, said, "at least one message")
    return found
