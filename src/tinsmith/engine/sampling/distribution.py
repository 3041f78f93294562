"""From logits to a token: the distribution that is sampled from, the draw, and the likeliest tokens.

Temperature first, then top-k, then top-p on what top-k left. The vocabulary is passed over in the logits' own dtype
(the engine's wide one) and no more often than must be: on a small model these passes cost as much as all its layers.
Sums over it, logprobs and the draw itself are float64, and so is all of a row that top-k or top-p cuts, where a
rounding would move the cut.

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


class Distribution:
    """What each of S rows is sampled from. Greedy rows have the model's own distribution, and no draw.

    Args:
        logits: [S, V], any float dtype.
        shaping: parameters of the S rows.

    Attributes:
        finite: which rows come from weights that did not diverge, bool [S]; what the others give means nothing.
    """

    def __init__(self, logits: Tensor, shaping: Shaping) -> None:
        self._logits = logits
        self._shaping = shaping
        peak = logits.amax(-1)
        # NaN and +inf reach the largest; -inf alone would be a token that cannot be drawn, which is sound.
        self.finite = peak.isfinite()
        self._peak = peak.where(self.finite, 0.0)
        self._scale: Tensor | None = None
        x = logits - self._peak[:, None]
        if any(t not in (0, 1) for t in shaping.temperature):
            scale = [t if t > 0 else 1.0 for t in shaping.temperature]
            self._scale = torch.tensor(scale, dtype=torch.float64, device=x.device)
            # The largest has been taken off, so that a tiny temperature overflows to -inf, which is its limit. Rounded
            # to 0 it would make 0 / 0 of the largest itself.
            x.div_(self._scale.clamp_min(torch.finfo(x.dtype).tiny).to(x.dtype)[:, None])
        weights = x.exp_()
        rows = shaping.truncated_rows()
        self._cut = dict(zip(rows, range(len(rows)), strict=True))
        if rows:
            index = torch.tensor(rows, device=x.device)
            whole = torch.log_softmax(self._shaped(logits[index], index), -1)
            self._kept = _truncate(whole, [shaping.top_k[r] for r in rows], [shaping.top_p[r] for r in rows])
            weights[index] = self._kept.exp().to(weights.dtype)
        buckets = -(-weights.shape[-1] // _BUCKET)
        if weights.shape[-1] % _BUCKET:
            # Padding has weight 0 and never wins: 0 / E is below any p / E.
            weights = torch.nn.functional.pad(weights, (0, buckets * _BUCKET - weights.shape[-1]))
        self._weights = weights.view(-1, buckets, _BUCKET)  # exp(logit - largest), over temperature; [S, buckets, 256]
        # Short sums first, and those in float64: a single sum over a large vocabulary would lose digits in float32.
        self._mass = self._weights.sum(-1).to(torch.float64)  # [S, buckets]
        self._log_total = self._mass.sum(-1).log()

    def draw(self, keys: Tensor) -> Tensor:
        """Return a token of each row: drawn, or where temperature is 0 the likeliest (ties: lowest id).

        Args:
            keys: int64 [S], the random stream of each draw (`randomness.stream_keys`).

        Returns:
            int64 [S].
        """
        greedy = [row for row, t in enumerate(self._shaping.temperature) if t == 0]
        if len(greedy) == len(self._shaping.temperature):
            return self._logits.argmax(-1)
        # A bucket wins with its share of the mass, then a token inside it with its share of the bucket: together p_i.
        # Two substreams, because both races must be independent of each other.
        bucket = (self._mass / exponentials(substream(keys, 1), self._mass.shape[-1])).argmax(-1)
        inside = self._weights[torch.arange(bucket.shape[0], device=bucket.device), bucket].to(torch.float64)
        tokens = bucket * _BUCKET + (inside / exponentials(substream(keys, 2), _BUCKET)).argmax(-1)
        if greedy:
            index = torch.tensor(greedy, device=tokens.device)
            tokens[index] = self._logits[index].argmax(-1)
        return tokens

    def logprobs(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Return the log-probabilities of some tokens.

        Args:
            ids: int64 [n, K].
            rows: the n rows that these are of; None for all S in order.

        Returns:
            float64 [n, K], -inf where a token cannot be drawn.
        """
        index = None if rows is None else torch.tensor(rows, device=ids.device)
        logits = self._logits if index is None else self._logits[index]
        total = self._log_total if index is None else self._log_total[index]
        found = self._shaped(logits.gather(-1, ids), index).sub_(total[:, None])
        # Those that were cut have been normalised as they were.
        asked = range(ids.shape[0]) if rows is None else rows
        cut = [(place, self._cut[row]) for place, row in enumerate(asked) if row in self._cut]
        if cut:
            places, kept = torch.tensor(cut, device=ids.device).unbind(1)
            found[places] = self._kept[kept].gather(-1, ids[places])
        return found

    def likeliest(self, k: int, rows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the k likeliest tokens, likeliest first, of equal ones the lower id first.

        Args:
            k: how many; no more than V are returned.
            rows: the n rows whose tokens are wanted; None for all S in order.

        Returns:
            ids int64 [n, k] and their logprobs float64 [n, k], -inf where fewer than k tokens can be drawn.
        """
        index = None if rows is None else torch.tensor(rows, device=self._logits.device)
        logits, finite = (x if index is None else x[index] for x in (self._logits, self.finite))
        # By the logits, for temperature moves no token past another and a cut takes from the end. NaN has no order.
        logits = logits.where(finite[:, None], 0.0)
        counts = torch.full((logits.shape[0],), min(k, logits.shape[-1]), device=logits.device)
        ids = _largest(logits, counts).nonzero()[:, 1].view(logits.shape[0], -1)
        order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
        ids = ids.gather(-1, order)
        return ids, self.logprobs(ids, rows)

    def _shaped(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """Return logits of some rows less their largest, over temperature: float64."""
        x = logits.to(torch.float64) - (self._peak if rows is None else self._peak[rows])[:, None]
        if self._scale is not None:
            x.div_((self._scale if rows is None else self._scale[rows])[:, None])
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
