"""From prompts as people write them to completions as people read them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tinsmith.client.sampling.completions import Completion, Completions
from tinsmith.client.sampling.opened_sampler import SampleSpec
from tinsmith.client.sampling.sampling_client import SamplingClient
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.types.params import SamplingParams


async def sample_texts(
    client: SamplingClient, prompts: Sequence[str | list[int]], params: SamplingParams, num_samples: int
) -> Completions:
    """Sample `num_samples` completions of each prompt, all prompts at once.

    Args:
        client: samples from the weights that are meant.
        prompts: texts, which are encoded as a document begins (with BOS where the tokenizer has it so), or token ids.
        params: the same for all prompts; its `stop` is cut off the texts.
        num_samples: completions of each prompt.
    """
    tokenizer = await client.tokenizer()
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]

    async def one(tokens: list[int]) -> list[Completion]:
        response = await client.sample_spec(SampleSpec(tokens, params, num_samples))
        return [Completion.of(sequence, tokens, tokenizer, params.stop) for sequence in response.sequences]

    return Completions(await asyncio.gather(*(one(tokens) for tokens in encoded)))


def encode_prompt(tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """Return a prompt's token ids; a text that spells the BOS token out gets no second one.

    No EOS, even where the tokenizer ends every text with one: nothing would be left to say.
    """
    if not isinstance(prompt, str):
        return prompt
    # A chat template writes BOS itself; twice it is a text that no model was trained on.
    spelled_out = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    return ids if spelled_out else tokenizer.begin(ids)
