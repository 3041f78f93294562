"""From the logits behind a batch of sequences to the next token of each."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from typing import NamedTuple

import torch
from torch import Tensor

from tinsmith.engine.model.native.drawing.native_draw import NativeDraw
from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.race import RacesAhead
from tinsmith.engine.sampling.drawing.usual_draw import runs_in_c
from tinsmith.engine.sampling.sequence import Sequence

# Ids and logprobs of the likeliest tokens, likeliest first.
Top = tuple[list[int], list[float]]


class NextToken(NamedTuple):
    """What a sequence goes on with.

    Attributes:
        token: the id; None where the logits were not finite.
        logprob: under the distribution that it was drawn from.
        top: the likeliest tokens; None where the request wants none.
    """

    token: int | None
    logprob: float
    top: Top | None


class Drawing:
    """Draws the tokens of the same S sequences, step after step, each as its request wants.

    Args:
        sequences: of any requests.
        logits: of a step, [S, V]; those of the others are like it.
        tile: see `products.fill_up`.
        in_c: whether the usual draw may run in C.
    """

    def __init__(self, sequences: ListLike[Sequence], logits: Tensor, tile: int, *, in_c: bool) -> None:
        self.sequences = sequences
        self._tile = tile
        params = [s.group.job.params for s in sequences]
        self._shaping = Shaping([p.temperature for p in params], [p.top_k for p in params], [p.top_p for p in params])
        self._wanted = [s.group.job.topk_sample_logprobs for s in sequences]
        # The stream of a draw is a matter of seed, sample and position alone: the rest of the batch does not count.
        streams, vocab_size = [s.stream for s in sequences], logits.shape[-1]
        is_usual = tile == 1 and not any(self._wanted) and not self._shaping.truncated_rows(vocab_size)
        if in_c and is_usual and runs_in_c(logits):
            self._source = NativeDraw(self._shaping.temperature, streams)
        else:
            self._source = RacesAhead(streams, vocab_size, logits.device, tile)

    def next(self, logits: Tensor) -> list[NextToken]:
        """Draw the next token of each sequence from logits [S, V], wide dtype."""
        positions = [len(s.tokens) for s in self.sequences]
        if isinstance(self._source, NativeDraw):
            found = zip(*self._source.at(logits, positions), strict=True)
            return [NextToken(token if token >= 0 else None, logprob, None) for token, logprob in found]
        distribution = Distribution(logits, self._shaping, self._tile)
        tokens = distribution.draw(None if self._shaping.is_greedy else self._source.at(positions))
        chosen = distribution.logprobs(tokens[:, None])[:, 0]
        # One transfer for all three, where a step waits for the device; ids are exact in float64.
        drawn = torch.stack([tokens.to(chosen.dtype), chosen, distribution.finite.to(chosen.dtype)]).tolist()
        tops = self._tops(distribution)
        return [
            NextToken(int(token) if is_finite else None, logprob, top)
            for token, logprob, is_finite, top in zip(*drawn, tops, strict=True)
        ]

    def _tops(self, distribution: Distribution) -> list[Top | None]:
        tops: list[Top | None] = [None] * len(self._wanted)
        asking = [i for i, k in enumerate(self._wanted) if k]
        if asking:
            # All with the largest k, each cut to its own: one selection instead of one per request.
            ids, values = distribution.likeliest(max(self._wanted), asking)
            for i, row_ids, row_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
                tops[i] = (row_ids[: self._wanted[i]], row_values[: self._wanted[i]])
        return tops


class Drawings:
    """What the draws of a step have in common with those of the step before.

    Args:
        tile: see `products.fill_up`.
        in_c: whether the usual draw may run in C.
    """

    def __init__(self, tile: int, *, in_c: bool) -> None:
        self._tile = tile
        self._in_c = in_c
        self._last: dict[int, Drawing] = {}

    def clear(self) -> None:
        """Give up what is kept for the next step."""
        self._last = {}

    def once(self, sequences: ListLike[Sequence], logits: Tensor) -> list[NextToken]:
        """Draw the next tokens of sequences that are not drawn together again."""
        return self._drawing(sequences, logits).next(logits)

    def next(self, start: int, sequences: ListLike[Sequence], logits: Tensor) -> list[NextToken]:
        """Draw the next tokens of part of a batch.

        Args:
            start: where the part begins in its batch.
            sequences: the part.
            logits: [len(sequences), V], wide dtype.
        """
        drawing = self._last.get(start)
        if drawing is None or drawing.sequences != sequences:
            drawing = self._last[start] = self._drawing(sequences, logits)
        return drawing.next(logits)

    def _drawing(self, sequences: ListLike[Sequence], logits: Tensor) -> Drawing:
        return Drawing(sequences, logits, self._tile, in_c=self._in_c)
