"""Whether the usual draw runs in C: where it gives what torch's operations give."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from tinsmith.engine.model.native.drawing.native_draw import NativeDraw, draws_here
from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.race import RacesAhead

log = logging.getLogger(__name__)

# Two buckets, of which the second is not full.
_VOCABULARY = 300
_TEMPERATURES = [0.0, 0.5, 1.0, 2.0]


def runs_in_c(logits: Tensor) -> bool:
    """Whether it does for such logits, of any shape."""
    return draws_here(logits) and _agrees()


@cache
def _agrees() -> bool:
    """Whether C gives what torch's operations give; logged where it does not."""
    logits = torch.linspace(0, 9, len(_TEMPERATURES) * _VOCABULARY).view(-1, _VOCABULARY).sin() * 8
    streams = positions = list(range(len(_TEMPERATURES)))
    wanted = Distribution(logits, Shaping(_TEMPERATURES, [-1] * len(streams), [1.0] * len(streams)))
    drawn = wanted.draw(RacesAhead(streams, _VOCABULARY, logits.device, 1).at(positions))
    logprobs = wanted.logprobs(drawn[:, None])[:, 0]
    tokens, found = NativeDraw(_TEMPERATURES, streams).at(logits, positions)
    # Not `>`: NaN compares false either way.
    if tokens == drawn.tolist() and bool((torch.tensor(found, dtype=torch.float64) - logprobs).norm() <= 1e-5):
        return True
    # A fault of ours that the tests have not seen, or the compiler's.
    log.warning("torch's operations draw tokens, slower: the draw in C computes something else here")
    return False
