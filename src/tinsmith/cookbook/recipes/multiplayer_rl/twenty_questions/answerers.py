"""Who answers: a rule that knows a closed world, or a model that is told the secret."""

from __future__ import annotations

import re
from typing import Any, Protocol

from tinsmith import SamplingClient, SamplingParams, ServiceClient
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.questions import topic_of
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import true_of
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.types.errors import APIStatusError, TinsmithError, UserError

# "Yes." with room for a space, a capital, or a word of explanation that is not read.
_MAX_TOKENS = 16


class Answerer(Protocol):
    """Answers questions about a secret.

    Attributes:
        closed_world: whether secrets and answers are those of `things`.
    """

    closed_world: bool

    async def answer(self, secret: str, question: str) -> bool | None:
        """Return yes or no, or None where the question has no such answer."""
        ...


class RuleAnswerer:
    """Answers from the table in `things`; what is not in there, it does not know."""

    closed_world = True

    async def answer(self, secret: str, question: str) -> bool | None:
        """Return what the table says."""
        things = true_of(topic_of(question))
        return None if things is None else secret in things


class ModelAnswerer:
    """Lets a model answer, greedily, so that the same question about the same secret has the same answer.

    Args:
        service: has the model.
        model_name: of the model.
        renderer_name: its chat format; None takes the model's own.
        seed: of its sampling.
    """

    closed_world = False

    def __init__(
        self, service: ServiceClient, model_name: str, renderer_name: str | None = None, seed: int = 0
    ) -> None:
        self._service = service
        self._model_name = model_name
        self._seed = seed
        completer = Completer.open(service, base_model=model_name, renderer_name=renderer_name)
        self._sampler, self._renderer = completer.sampler, completer.renderer
        # The episodes of a group ask much the same.
        self._answers: dict[tuple[str, str], bool | None] = {}

    async def answer(self, secret: str, question: str) -> bool | None:
        """Return what the model says; None where it says neither yes nor no.

        Raises:
            TinsmithError: the service failed; the message names the answerer.
        """
        asked = (secret, question)
        if asked not in self._answers:
            self._answers[asked] = yes_or_no(await self._say(secret, question))
        return self._answers[asked]

    async def _say(self, secret: str, question: str) -> str:
        prompt = self._renderer.build_generation_prompt(
            [
                {"role": "system", "content": f"The secret is {secret}. Answer only yes or no."},
                {"role": "user", "content": question},
            ]
        )
        params = SamplingParams(
            max_tokens=_MAX_TOKENS, temperature=0.0, seed=self._seed, stop=self._renderer.get_stop_sequences()
        )
        response = await self._sample(prompt, params)
        message, _ = self._renderer.parse_response(response.sequences[0].tokens)
        return get_text_content(message)

    async def _sample(self, prompt: Any, params: SamplingParams) -> Any:
        sampler = self._sampler
        try:
            try:
                return await sampler.sample(prompt, num_samples=1, sampling_params=params)
            except APIStatusError as error:
                if error.status_code not in (404, 410):
                    raise
                return await self._renewed(sampler, error).sample(prompt, num_samples=1, sampling_params=params)
        except (TinsmithError, UserError) as error:
            raise TinsmithError(f"answerer_model {self._model_name}: {error}") from error

    def _renewed(self, expired: SamplingClient, error: APIStatusError) -> SamplingClient:
        # Many games find the same sampler gone; the first of them makes the new one.
        if self._sampler is expired:
            warn_once("answerer expired", f"answerer_model {self._model_name}: {error}; its sampler is made anew")
            self._sampler = self._service.create_sampling_client(base_model=self._model_name)
        return self._sampler


def yes_or_no(said: str) -> bool | None:
    """Return what an answer begins with, None where that is neither yes nor no."""
    match = re.match(r"\W*(yes|no)\b", said, re.IGNORECASE)
    return None if match is None else match[1].lower() == "yes"
