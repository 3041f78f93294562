"""`create_rl_data`: the course's step from completions and rewards to training data."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith import Completion, Datum
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.types.errors import invalid


def create_rl_data(
    responses: Sequence[Completion], rewards: Sequence[float], advantages: Sequence[float]
) -> list[Datum]:
    """Return one datum for each completion, for losses that read advantages, `importance_sampling` for example.

    The ids and logprobs are those that were sampled.

    Args:
        responses: what `TrainingClient.sample` gave.
        rewards: of each; they say nothing beyond the advantages, and are checked to be as many.
        advantages: of each, which all its tokens take.

    Raises:
        UserError: the lists differ in length, or a completion has no logprobs.
    """
    completions = list(responses)
    for name, numbers in (("rewards", rewards), ("advantages", advantages)):
        if len(numbers) != len(completions):
            raise invalid(name, f"{len(numbers)} numbers", f"{len(completions)}, one for each response")
    data: list[Datum] = []
    for index, (completion, advantage) in enumerate(zip(completions, advantages, strict=True)):
        # Without them the ratio of the policies is unknown, and data of older weights would be learned as if new.
        if completion.logprobs is None:
            raise invalid(f"responses[{index}].logprobs", None, "the logprobs of the sampled tokens")
        example = Example()
        example.read(completion.prompt_tokens)
        example.say(completion.tokens, completion.logprobs, float(advantage))
        data.append(example.datum())
    return data
