"""From logits to a token: the distribution that is sampled from, the draw, and the likeliest tokens.

Temperature first, then top-k, then top-p on what top-k left. The vocabulary is passed over in the logits' own dtype
(the engine's wide one) and no more often than must be: on a small model these passes cost as much as all its layers.
Sums over it, logprobs and the draw itself are float64.

The draw is a race of exponentials, argmax_i p_i / E_i, which picks i with probability p_i (the Gumbel-max trick). An
inverse CDF would need one random number only, but each of its boundaries moves with the rounding of all logits before
it, and the logits of a request are rounded a little differently in every batch. A race changes its winner only where
the first two arrive within rounding of each other: twenty times more seldom with 500 tokens, and the more the larger
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tinsmith.engine.model.tiles.products import fill_up
from tinsmith.engine.model.tiles.softmax import BUCKET, bucket_sums
from tinsmith.engine.sampling.drawing.race import Race
from tinsmith.engine.transfers import to_device

# Most nuclei are narrower than this at usual temperatures; for a wider one eight times as many are looked at. Other
# widths are rounded up to a multiple of it, see `products.fill_up`.
_FIRST_NUCLEUS = 64


@dataclass(frozen=True)
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

    @cached_property
    def greedy(self) -> list[int]:
        """Rows that are not drawn."""
        return [row for row, t in enumerate(self.temperature) if t == 0]

    @property
    def is_greedy(self) -> bool:
        """Whether no row is drawn."""
        return len(self.greedy) == len(self.temperature)

    @cached_property
    def is_tempered(self) -> bool:
        """Whether logits are divided by something."""
        return any(t not in (0, 1) for t in self.temperature)

    def truncated_rows(self, vocab_size: int) -> list[int]:
        """Rows where top-k or top-p takes something away."""
        rows = zip(self.temperature, self.top_k, self.top_p, strict=True)
        return [row for row, (t, k, p) in enumerate(rows) if t > 0 and (0 < k < vocab_size or p < 1)]

    def fill_up(self, tile: int) -> Shaping:
        """Add rows that nothing is done to, up to a multiple of `tile`."""
        if not (missing := -len(self.temperature) % tile):
            return self
        more = [1.0] * missing
        return Shaping([*self.temperature, *more], [*self.top_k, *[-1] * missing], [*self.top_p, *more])


class Distribution:
    """What each of S rows is sampled from. Greedy rows have the model's own distribution, and no draw.

    Args:
        logits: [S, V], any float dtype.
        shaping: parameters of the S rows.
        tile: see `products.fill_up`.

    Attributes:
        finite: which rows come from weights that did not diverge, bool [S]; what the others give means nothing.
    """

    def __init__(self, logits: Tensor, shaping: Shaping, tile: int = 1) -> None:
        self._rows = logits.shape[0]
        self._tile = tile
        self._logits = logits = fill_up(logits, tile)
        self._shaping = shaping = shaping.fill_up(tile)
        peak = logits.amax(-1)
        # NaN and +inf reach the largest; -inf alone would be a token that cannot be drawn, which is sound.
        finite = peak.isfinite()
        self.finite = finite[: self._rows]
        self._peak = peak.where(finite, 0.0)
        self._scale: Tensor | None = None
        x = logits - self._peak[:, None]
        if shaping.is_tempered:
            scale = [t if t > 0 else 1.0 for t in shaping.temperature]
            self._scale = to_device(scale, x.device, torch.float64)
            # The largest has been taken off, so that a tiny temperature overflows to -inf, which is its limit. Rounded
            # to 0 it would make 0 / 0 of the largest itself.
            x.div_(self._scale.clamp_min(torch.finfo(x.dtype).tiny).to(x.dtype)[:, None])
        # exp(logit - largest), over temperature. What fills up the last bucket never wins: 0 / E is below any p / E.
        self._weights, self._mass = bucket_sums(x.exp_())
        self._log_total = self._mass.sum(-1).log()
        rows = shaping.truncated_rows(logits.shape[-1])
        # Where each row that something is taken from stands in `_kept`.
        self._cut = dict(zip(rows, range(len(rows)), strict=True))
        self._kept = self._truncate(rows) if rows else None

    def _truncate(self, rows: list[int]) -> Tensor:
        """Keep the k likeliest and of those the nucleus of some rows; return which tokens stay, bool [n, V]."""
        index = to_device(rows, self._logits.device)
        logits = self._logits[index]
        vocab = logits.shape[-1]
        # Top-k first, and top-p of the mass that it leaves, the order of vLLM and of transformers.
        top_k = [self._shaping.top_k[row] for row in rows]
        limits = [min(k, vocab) if k > 0 else vocab for k in top_k]
        top_p = [self._shaping.top_p[row] for row in rows]
        if min(top_p) >= 1:
            ranked, counts = _ranked(logits, max(limits)), to_device(limits, logits.device)
        else:
            ranked, counts = self._nuclei(logits, index, limits, top_p)
        kept = _largest(logits, ranked, counts)
        weights = self._weights.flatten(1)
        weights[index, :vocab] = weights[index, :vocab].masked_fill_(~kept, 0.0)
        self._mass[index] = self._weights[index].sum(-1).to(torch.float64)
        self._log_total = self._mass.sum(-1).log()
        return kept

    def _nuclei(self, logits: Tensor, rows: Tensor, limits: list[int], top_p: list[float]) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens' logits, largest first, and how many of them make up top_p of each row's mass.

        Looks at the 64 likeliest first, and at more only where a nucleus is wider: sorting a vocabulary is slow.

        Args:
            logits: [n, V].
            rows: which rows of the batch they are, int64 [n].
            limits: how many top-k leaves of each.
            top_p: of each.

        Returns:
            [n, W] and int64 [n].
        """
        vocab = logits.shape[-1]
        wanted = to_device(top_p, logits.device, torch.float64)[:, None]
        limit = to_device(limits, logits.device)
        width = min(vocab, _FIRST_NUCLEUS)
        limited = limit < vocab
        if (most := max((k for k in limits if k < vocab), default=0)) > width:
            width = min(vocab, -(-most // _FIRST_NUCLEUS) * _FIRST_NUCLEUS)
        while True:
            ranked = _ranked(logits, width)
            if self._tile > 1:
                ranked = torch.nn.functional.pad(ranked, (0, -width % self._tile), value=-torch.inf)
            probs = (self._shaped(ranked, rows) - self._log_total[rows, None]).exp_()
            # Ranks [width] beyond a row's top-k count nothing.
            beyond = torch.arange(probs.shape[-1], device=probs.device) >= limit[:, None]
            cumulative = probs.masked_fill_(beyond, 0.0).cumsum(-1)
            # Without top-k the whole is 1 whatever was looked at; with it, `width` covers all of the k.
            total = torch.where(limited[:, None], cumulative[:, -1:], 1.0)
            # Nothing is taken from a row that wants all, whatever rounding makes of its sum.
            short = (cumulative < wanted * total) | (wanted >= 1)
            if width == vocab or not bool((short[:, -1:] & (wanted < 1) & ~limited[:, None]).any()):
                # Rounding may leave even the whole just short of top_p, hence the clamp.
                return ranked, torch.minimum(short.sum(-1) + 1, limit)
            width = min(vocab, width * 8)

    def draw(self, race: Race | None) -> Tensor:
        """Return a token of each row: drawn, or where temperature is 0 the likeliest (ties: lowest id).

        Args:
            race: the random numbers of each row, those that fill up included; None where all are greedy.

        Returns:
            int64 [S].
        """
        if race is None:
            return self._logits.argmax(-1)[: self._rows]
        # A bucket wins with its share of the mass, then a token inside it with its share of the bucket: together p_i.
        bucket = (self._mass / race.buckets).argmax(-1)
        inside = self._weights[torch.arange(bucket.shape[0], device=bucket.device), bucket].to(torch.float64)
        tokens = bucket * BUCKET + (inside / race.inside).argmax(-1)
        if self._shaping.greedy:
            index = to_device(self._shaping.greedy, tokens.device)
            tokens[index] = self._logits[index].argmax(-1)
        return tokens[: self._rows]

    def logprobs(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Return the log-probabilities of some tokens.

        Args:
            ids: int64 [n, K].
            rows: the n rows that these are of; None for all S in order.

        Returns:
            float64 [n, K], -inf where a token cannot be drawn.
        """
        index, asked = self._index(rows), range(self._rows) if rows is None else rows
        logits = self._logits if index is None else self._logits[index]
        total = self._log_total if index is None else self._log_total[index]
        found = self._shaped(logits.gather(-1, ids), index).sub_(total[:, None])
        cut = [(place, self._cut[row]) for place, row in enumerate(asked) if row in self._cut]
        if cut and self._kept is not None:
            places, kept = to_device(cut, ids.device).unbind(1)
            found[places] = found[places].masked_fill_(~self._kept[kept].gather(-1, ids[places]), -torch.inf)
        return found

    def likeliest(self, k: int, rows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the k likeliest tokens, likeliest first, of equal ones the lower id first.

        Args:
            k: how many; no more than V are returned.
            rows: the n rows whose tokens are wanted; None for all S in order.

        Returns:
            ids int64 [n, k] and their logprobs float64 [n, k], -inf where fewer than k tokens can be drawn.
        """
        index = self._index(rows)
        logits, finite = (x if index is None else x[index] for x in (self._logits, self.finite))
        # By the logits, for temperature moves no token past another and a cut takes from the end. NaN has no order.
        logits = logits.where(finite[:, None], 0.0)
        k = min(k, logits.shape[-1])
        marked = _largest(logits, _ranked(logits, k), torch.full((logits.shape[0],), k, device=logits.device))
        ids = marked.nonzero()[:, 1].view(-1, k)
        order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
        ids = ids.gather(-1, order)
        return ids, self.logprobs(ids, rows)

    def _index(self, rows: Sequence[int] | None) -> Tensor | None:
        """Some rows as a tensor, by default all that are no filling; None where those are all that there are."""
        if rows is None and self._rows == self._logits.shape[0]:
            return None
        return to_device(list(range(self._rows) if rows is None else rows), self._logits.device)

    def _shaped(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """Return logits of some rows less their largest, over temperature: float64."""
        x = logits.to(torch.float64) - (self._peak if rows is None else self._peak[rows])[:, None]
        if self._scale is not None:
            x.div_((self._scale if rows is None else self._scale[rows])[:, None])
        return x


def _ranked(x: Tensor, width: int) -> Tensor:
    """Return the `width` largest of each row of x [n, V], largest first."""
    return x.sort(-1, descending=True).values if width == x.shape[-1] else x.topk(width, -1).values


def _largest(x: Tensor, ranked: Tensor, counts: Tensor) -> Tensor:
    """Mark the `counts` [n] largest values of each row of x [n, V], of equal ones the first.

    Args:
        x: the values.
        ranked: at least `counts` of them, largest first, [n, W].
        counts: at least 1.
    """
    # Marked by threshold instead of scattered by index: ties are settled by the lower id, which topk does not promise.
    threshold = ranked.gather(-1, counts[:, None] - 1)
    marked = x >= threshold
    tied: Tensor | slice = slice(None)
    if _is_near(x):
        # There are seldom any, and an accelerator would have to be waited for to know.
        tied = (marked.sum(-1) > counts).nonzero()[:, 0]
        if not tied.numel():
            return marked
    some, edge = x[tied], threshold[tied]
    above, equal = some > edge, some == edge
    room = counts[tied][:, None] - above.sum(-1, keepdim=True)
    marked[tied] = above | (equal & (equal.cumsum(-1) <= room))
    return marked


def _is_near(x: Tensor) -> bool:
    """Whether Python may look at a tensor without waiting for a device."""
    return x.device.type == "cpu"
