"""From the logits behind a batch of sequences to the next token of each."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.randomness import stream_keys
from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.transfers import to_device

# Ids and logprobs of the likeliest tokens, likeliest first.
Top = tuple[list[int], list[float]]


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a sequence goes on with.

    Attributes:
        token: the id; None where the logits were not finite.
        logprob: under the distribution that it was drawn from.
        top: the likeliest tokens; None where the request wants none.
    """

    token: int | None
    logprob: float
    top: Top | None


def next_tokens(sequences: ListLike[Sequence], logits: Tensor, tile: int = 1) -> list[NextToken]:
    """Draw the next token of each of S sequences, each as its request wants.

    Args:
        sequences: of any requests.
        logits: [S, V], wide dtype.
        tile: see `products.fill_up`.
    """
    params = [s.group.job.params for s in sequences]
    shaping = Shaping([p.temperature for p in params], [p.top_k for p in params], [p.top_p for p in params])
    distribution = Distribution(logits, shaping, tile)
    # The stream of a draw is a matter of seed, sample and position alone: the rest of the batch does not count.
    bases = to_device([s.stream for s in sequences], logits.device)
    positions = to_device([len(s.tokens) for s in sequences], logits.device)
    tokens = distribution.draw(stream_keys(bases, positions))
    chosen = distribution.logprobs(tokens[:, None])[:, 0]
    # One transfer for all three, where a step waits for the device; ids are exact in float64.
    drawn = torch.stack([tokens.to(chosen.dtype), chosen, distribution.finite.to(chosen.dtype)]).T.tolist()
    tops = _tops(sequences, distribution)
    return [
        NextToken(int(token) if is_finite else None, logprob, top)
        for (token, logprob, is_finite), top in zip(drawn, tops, strict=True)
    ]


def _tops(sequences: ListLike[Sequence], distribution: Distribution) -> list[Top | None]:
    wanted = [s.group.job.topk_sample_logprobs for s in sequences]
    tops: list[Top | None] = [None] * len(sequences)
    asking = [i for i, k in enumerate(wanted) if k]
    if asking:
        # All with the largest k, each cut to its own: one selection instead of one per request.
        ids, values = distribution.likeliest(max(wanted), asking)
        for i, row_ids, row_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            tops[i] = (row_ids[: wanted[i]], row_values[: wanted[i]])
    return tops
