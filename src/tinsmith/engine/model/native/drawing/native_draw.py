"""The usual draw of next tokens in C: one call for all rows of a step, see `draw.c`.

For a step of a small model torch's operations take as long as a third of the model, mostly to begin and to pass over
memory again: here a row is read twice and its random numbers are made where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_int64, c_void_p
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.threads import THREADS


@cache
def _function() -> Callable[..., None]:
    """The function, once its parameters are told."""
    found = library()
    assert found is not None
    found.draw.argtypes, found.draw.restype = [*[c_void_p] * 6, *[c_int64] * 3], None
    return found.draw


def draws_here(logits: Tensor) -> bool:
    """Whether it draws from such logits: of float32 on a CPU, with a library."""
    return logits.device.type == "cpu" and logits.dtype == torch.float32 and library() is not None


class NativeDraw:
    """Draws the tokens of the same S rows, step after step, from their whole distributions.

    Args:
        temperatures: of each row; 0 is greedy.
        streams: base of each row's random numbers (`randomness.stream_base`).
    """

    def __init__(self, temperatures: Sequence[float], streams: Sequence[int]) -> None:
        # NumPy's arrays, which are made of lists and back in a fraction of the time that tensors take.
        self._temperatures = np.array(temperatures, np.float64)
        self._streams = np.array(streams, np.int64)

    def at(self, logits: Tensor, positions: Sequence[int]) -> tuple[list[int], list[float]]:
        """Draw a token of each row; where temperature is 0 the likeliest (ties: lowest id).

        Args:
            logits: float32 [S, V], on a CPU.
            positions: of the tokens in their sequences.

        Returns:
            tokens, -1 where the row's largest logit is not finite, and their logprobs, computed in float64.
        """
        rows, vocab = logits.shape
        logits, places = logits.contiguous(), np.array(positions, np.int64)
        tokens, logprobs = np.empty_like(places), np.empty_like(self._temperatures)
        arrays = (self._temperatures, self._streams, places, tokens, logprobs)
        # Bits do not follow the number of threads here, so it may follow the load.
        _function()(logits.data_ptr(), *(array.ctypes.data for array in arrays), rows, vocab, THREADS.free)
        return tokens.tolist(), logprobs.tolist()
