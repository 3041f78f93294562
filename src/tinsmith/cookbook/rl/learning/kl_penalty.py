"""A penalty for moving away from a reference model, as part of the advantages.

Each action token's advantage becomes A + coef * (mean of d - d), where d = log pi(token) - log pi_ref(token), pi is the
policy that sampled, and the mean is over all action tokens that are forwarded together: those of a substep, or of a
part of it that streams. That is the per-token reward -coef * d of Stiennon et al. 2020 (arXiv:2009.01325, section 3.4),
credited to the token itself, with the mean as its baseline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from tinsmith import SamplingClient
from tinsmith.cookbook.rl.learning.examples import Example


class KLPenalty:
    """Moves the advantages of examples by how far their tokens are from a reference.

    Args:
        reference: the model that is not to be left far behind.
        coef: weight of the penalty.
        context_length: tokens that the reference reads; None where it is not known.
    """

    def __init__(self, reference: SamplingClient, coef: float, context_length: int | None) -> None:
        self._reference = reference
        self._coef = coef
        self._context_length = context_length

    async def apply(self, examples: Sequence[Example]) -> float | None:
        """Change the advantages in place; return the mean of d, in nats per token, None without any token.

        Raises:
            TinsmithError: the service failed.
        """
        differences = await asyncio.gather(*map(self._difference, examples))
        spoken = [d[np.asarray(example.action)] for d, example in zip(differences, examples, strict=True)]
        flat = np.concatenate(spoken) if spoken else np.zeros(0)
        if not flat.size:
            return None
        mean = float(flat.mean())
        for example, difference in zip(examples, differences, strict=True):
            example.advantages = [
                advantage + self._coef * (mean - float(d)) if action else advantage
                for advantage, d, action in zip(example.advantages, difference, example.action, strict=True)
            ]
        return mean

    async def _difference(self, example: Example) -> np.ndarray:
        # Logprobs of a prompt need room for one token behind it, so the very last token of a full context has none;
        # it counts as no difference.
        room = len(example.tokens) if self._context_length is None else self._context_length - 1
        return log_ratios(example, await self._reference.compute_logprobs(example.tokens[:room]))


def log_ratios(example: Example, reference: Sequence[float | None]) -> np.ndarray:
    """Return d = log pi(token) - log pi_ref(token) of N tokens in nats; 0 where none was sampled, or one is not known.

    Args:
        example: N tokens.
        reference: logprobs of the first of them; fewer than N where the reference reads no more.
    """
    known = np.zeros(len(example.tokens), dtype=bool)
    known[: len(reference)] = [value is not None for value in reference]
    logprobs = np.zeros(len(example.tokens))
    logprobs[: len(reference)] = [value or 0.0 for value in reference]
    return np.where(known & np.asarray(example.action), np.asarray(example.logprobs) - logprobs, 0.0)
