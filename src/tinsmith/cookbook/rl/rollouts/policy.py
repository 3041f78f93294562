"""`Policy`: samples actions from one state of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from tinsmith import ModelInput, SamplingClient, SamplingParams
from tinsmith.cookbook.rl.environment import StopCondition
from tinsmith.cookbook.rl.trajectories import TokensWithLogprobs


@dataclass(frozen=True)
class Policy:
    """Samples actions.

    Attributes:
        sampler: the weights.
        temperature: 1 samples from the model's own distribution, which is the one that importance ratios are about.
        context_length: tokens that the model reads; None where the service does not say.
        step: training steps that the weights have had.
    """

    sampler: SamplingClient
    temperature: float = 1.0
    context_length: int | None = None
    step: int = 0

    async def sample(
        self,
        observation: ModelInput,
        stop: StopCondition | None,
        *,
        max_tokens: int | None,
        seed: int,
        num_samples: int = 1,
    ) -> list[TokensWithLogprobs]:
        """Sample actions after one observation.

        Args:
            observation: what the policy reads.
            stop: what ends an action; None is the model's own end of a turn, an empty list nothing at all.
            max_tokens: longest action; None goes up to the context.
            seed: the same seed gives the same actions, whatever else is being sampled.
            num_samples: how many; they differ by their place.
        """
        response = await self.sampler.sample(
            observation,
            num_samples=num_samples,
            sampling_params=SamplingParams(max_tokens=max_tokens, temperature=self.temperature, seed=seed, stop=stop),
        )
        return [
            TokensWithLogprobs(
                list(sequence.tokens), list(sequence.logprobs or []), sequence.stop_reason, sequence.sequence_id
            )
            for sequence in response.sequences
        ]
