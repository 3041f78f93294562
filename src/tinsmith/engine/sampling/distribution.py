"""From logits to a token: the distribution that is sampled from, the draw, and the likeliest tokens.

Temperature first, then top-k, then top-p on what top-k left. Everything is float64, whatever the model's dtype.

The draw is a race of exponentials, argmax_i p_i / E_i, which picks i with probability p_i (the Gumbel-max trick). An
inverse CDF would need one random number only, but each of its boundaries moves with the rounding of all logits before
it, and the logits of a request are rounded a little differently in every batch. A race changes its winner only where
the first two arrive within rounding of each other: twenty times more seldom with 500 tokens, and the more the larger
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.engine.sampling.randomness import exponentials, substream

# A race over all of V would hash V numbers per token; one over buckets and one inside the winner hash V / 256 + 256.
_BUCKET = 256
# Most nuclei are narrower than this at usual temperatures; for a wider one eight times as many are looked at.
_FIRST_NUCLEUS = 64


@dataclass(frozen=True, slots=True)
class Shaping:
    """How the distribution of each of S rows is shaped; plain lists, so that a step decides without a device sync.

    Attributes:
        temperature: 0 is greedy, else > 0.
        top_k: -1 or at least 1.
        top_p: in (0, 1].
    """

    temperature: Sequence[float]
    top_k: Sequence[int]
    top_p: Sequence[float]

    def truncated_rows(self) -> list[int]:
        """Rows where top-k or top-p takes something away."""
        rows = zip(self.temperature, self.top_k, self.top_p, strict=True)
        return [row for row, (t, k, p) in enumerate(rows) if t > 0 and (k > 0 or p < 1)]


def shaped_logprobs(logits: Tensor, shaping: Shaping) -> Tensor:
    """Return the log-probabilities of the distribution that each row is sampled from.

    Greedy rows get the model's own. Ties at the edge of top-k or top-p go to the lower ids.

    Args:
        logits: [S, V], any float dtype.
        shaping: parameters of the S rows.

    Returns:
        float64 [S, V], -inf where a token cannot be drawn.
    """
    x = logits.to(torch.float64)
    if any(t not in (0, 1) for t in shaping.temperature):
        # The largest is taken off first, so that a tiny temperature cannot overflow it.
        scale = x.new_tensor([t if t > 0 else 1.0 for t in shaping.temperature])
        x = (x - x.amax(-1, keepdim=True)) / scale[:, None]
    # Shifted or not, the softmax is the same; at temperature 1 it does the shift itself.
    x = torch.log_softmax(x, -1)
    rows = shaping.truncated_rows()
    if rows:
        index = torch.tensor(rows, device=x.device)
        x[index] = _truncate(x[index], [shaping.top_k[r] for r in rows], [shaping.top_p[r] for r in rows])
    return x


def _truncate(logprobs: Tensor, top_k: list[int], top_p: list[float]) -> Tensor:
    """Keep the k likeliest and of those the nucleus of each row [S, V], and normalise again."""
    vocab = logprobs.shape[-1]
    # Top-k first, and top-p of the mass that it leaves, the order of vLLM and of transformers.
    limit = torch.tensor([min(k, vocab) if k > 0 else vocab for k in top_k], device=logprobs.device)
    keep = limit if min(top_p) >= 1 else _nucleus_sizes(logprobs, limit, top_p)
    kept = logprobs.masked_fill(~_largest(logprobs, keep), -torch.inf)
    return torch.log_softmax(kept, -1)


def _nucleus_sizes(logprobs: Tensor, limit: Tensor, top_p: list[float]) -> Tensor:
    """Return how many of the `limit` likeliest tokens it takes to reach top_p of their mass: int64 [S].

    Looks at the 64 likeliest first and at more only where a nucleus is wider: sorting a vocabulary is slow on a CPU.
    """
    vocab = logprobs.shape[-1]
    wanted = logprobs.new_tensor(top_p)[:, None]
    width = min(vocab, _FIRST_NUCLEUS)
    limited = limit < vocab
    if bool(limited.any()):
        width = max(width, int(limit[limited].max()))
    while True:
        probs = logprobs.topk(width, -1).values.exp()
        # Ranks [width] beyond a row's top-k count nothing.
        beyond = torch.arange(width, device=probs.device) >= limit[:, None]
        cumulative = probs.masked_fill(beyond, 0.0).cumsum(-1)
        # Without top-k the whole is 1 whatever was looked at; with it, `width` covers all of the k.
        total = torch.where(limited[:, None], cumulative[:, -1:], 1.0)
        short = cumulative < wanted * total
        if width == vocab or not bool((short[:, -1] & ~limited).any()):
            # Rounding may leave even the whole just short of top_p, hence the clamp.
            return torch.minimum(short.sum(-1) + 1, limit)
        width = min(vocab, width * 8)


def _largest(x: Tensor, counts: Tensor) -> Tensor:
    """Mark the `counts` [S] largest values of each row of x [S, V], of equal ones the first."""
    # Marked by threshold instead of scattered by index: ties are settled by the lower id, which topk does not promise.
    if int(counts.max()) == x.shape[-1]:
        threshold = x.sort(-1, descending=True).values
    else:
        threshold = x.topk(int(counts.max()), -1).values
    threshold = threshold.gather(-1, counts[:, None] - 1)
    above = x > threshold  # [S, V]
    equal = x == threshold
    room = counts[:, None] - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def draw(logprobs: Tensor, keys: Tensor) -> Tensor:
    """Draw one token from each row.

    Args:
        logprobs: float64 [S, V], normalised or not.
        keys: int64 [S], the random stream of each draw (`randomness.stream_keys`).

    Returns:
        int64 [S].
    """
    # A bucket wins with its share of the mass, then a token inside it with its share of the bucket: together p_i.
    rows, vocab = logprobs.shape
    buckets = -(-vocab // _BUCKET)
    probs = logprobs.exp()
    if vocab % _BUCKET:
        probs = torch.nn.functional.pad(probs, (0, buckets * _BUCKET - vocab))
    probs = probs.view(rows, buckets, _BUCKET)
    # Two substreams, because both races must be independent of each other.
    bucket = (probs.sum(-1) / exponentials(substream(keys, 1), buckets)).argmax(-1)
    # Padding has probability 0 and never wins: 0 / E is below any p / E.
    inside = probs[torch.arange(rows, device=probs.device), bucket]
    return bucket * _BUCKET + (inside / exponentials(substream(keys, 2), _BUCKET)).argmax(-1)


def choose(logits: Tensor, logprobs: Tensor, shaping: Shaping, keys: Tensor) -> Tensor:
    """Return the next token of each row, int64 [S]: drawn, or where temperature is 0 the likeliest (ties: lowest id).

    Args:
        logits: [S, V].
        logprobs: float64 [S, V], `shaped_logprobs(logits, shaping)`.
        shaping: parameters of the S rows.
        keys: int64 [S], the random stream of each draw.
    """
    greedy = [t == 0 for t in shaping.temperature]
    if all(greedy):
        return logits.argmax(-1)
    if not any(greedy):
        return draw(logprobs, keys)
    return torch.where(torch.tensor(greedy, device=logits.device), logits.argmax(-1), draw(logprobs, keys))


def top_logprobs(logprobs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k likeliest tokens of each row, likeliest first, of equal ones the lower id first.

    Args:
        logprobs: [S, V].
        k: at most V.

    Returns:
        ids int64 [S, k] and their logprobs [S, k], -inf where fewer than k tokens can be drawn.
    """
    counts = torch.full((logprobs.shape[0],), k, device=logprobs.device)
    marked = _largest(logprobs, counts)
    ids = marked.nonzero()[:, 1].view(-1, k)
    values, order = logprobs.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order), values
