"""What a request wants to know about its prompt: logprobs of its tokens, of the likeliest, of given and of drawn ones.

Row i of the prompt's logits is the model's prediction of prompt token i + 1. Logprobs are the model's own
(temperature 1), whatever the request samples with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.model.tiles.products import fill_up
from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.race import Race
from tinsmith.engine.sampling.drawing.randomness import stream_base, stream_keys
from tinsmith.types.outputs import EMPTY_TOPK_LOGPROB, PromptAltTokens, SampleResponse, TopkLogprobs
from tinsmith.types.tensor import TensorData


def top_table(rows: int, k: int) -> TopkLogprobs:
    """Return an empty table of the k likeliest tokens at each of `rows` positions."""
    return TopkLogprobs(np.zeros((rows, k), np.int32), np.full((rows, k), EMPTY_TOPK_LOGPROB, np.float32))


def fill_top(table: TopkLogprobs, row: int, ids: np.ndarray, logprobs: np.ndarray) -> None:
    """Write rows [row, row + n) of a table.

    Args:
        table: to write to.
        row: the first.
        ids: [n, k'], likeliest first; k' is at most the table's width.
        logprobs: [n, k'], -inf where there is no such token.
    """
    span = (slice(row, row + ids.shape[0]), slice(0, ids.shape[1]))
    there = np.isfinite(logprobs)
    table.token_ids[span] = np.where(there, ids, 0)
    table.logprobs[span] = np.where(there, logprobs, EMPTY_TOPK_LOGPROB)


class PromptScores:
    """Collects the scores of one prompt as its chunks are computed, in order.

    Args:
        job: the request.
        seed: of the alternative tokens.

    Attributes:
        next_row: the first row that is still to be scored; all before it need no logits.
    """

    def __init__(self, job: SampleJob, seed: int) -> None:
        self._job = job
        self._seed = seed
        length = len(job.prompt)
        self._prompt = torch.tensor(job.prompt)
        self._logprobs = np.full(length, np.nan, np.float32) if job.prompt_logprobs else None
        self._top = top_table(length, job.topk_prompt_logprobs) if job.topk_prompt_logprobs else None
        targets = job.target_prompt_logprobs
        # What a sparse tensor leaves out is -1 like a cell that asks for nothing.
        self._targets = None if targets is None else targets.to_numpy(pad_value=-1)
        self._target_logprobs = None if self._targets is None else np.zeros(self._targets.shape, np.float32)
        self._alt_ids = np.zeros((length - 1, job.prompt_alt_tokens_k), np.int64)
        self._alt_logprobs = np.zeros((length - 1, job.prompt_alt_tokens_k), np.float32)
        # Own logprobs and the likeliest are wanted from this row on. A prompt of one token has no row at all.
        self._first_own = max(0, length - 1 - (job.prompt_logprobs_last_n or length - 1))
        self._end = length - 1
        self.next_row = self._first_row()

    @classmethod
    def wanted(cls, job: SampleJob, seed: int) -> PromptScores | None:
        """Return the collector of a request, None where it asks for no scores."""
        asks = job.prompt_logprobs or job.topk_prompt_logprobs or job.prompt_alt_tokens_k
        return cls(job, seed) if asks or job.target_prompt_logprobs is not None else None

    def _first_row(self) -> int:
        firsts = [self._end]
        if self._logprobs is not None or self._top is not None:
            firsts.append(self._first_own)
        if self._job.prompt_alt_tokens_k:
            firsts.append(0)
        if self._targets is not None:
            firsts.extend(np.flatnonzero((self._targets >= 0).any(1))[:1].tolist())
        return min(firsts)

    def rows(self, start: int, end: int) -> range:
        """Return which rows of the prompt tokens [start, end) are still to be scored."""
        return range(max(start, self.next_row), min(end, self._end))

    def take(self, logits: Tensor, tile: int = 1) -> bool:
        """Score the rows from `next_row` on; return whether they could be, which logits that are not finite cannot.

        Args:
            logits: [n, V].
        """
        start, end = self.next_row, self.next_row + logits.shape[0]
        own = Distribution(logits, _plain(logits.shape[0], 1.0), tile)
        if not bool(own.finite.all()):
            return False
        if end > self._first_own:
            self._take_own(start, end, own)
        if self._targets is not None and self._target_logprobs is not None:
            ids = torch.from_numpy(self._targets[start:end]).to(logits.device)
            # -1 asks for nothing: looked up as id 0, then overwritten by 0, as the protocol wants such cells.
            found = own.logprobs(ids.clamp_min(0)).masked_fill_(ids < 0, 0.0)
            self._target_logprobs[start:end] = found.cpu().numpy()
        if self._job.prompt_alt_tokens_k:
            self._draw_alternatives(start, logits, own, tile)
        self.next_row = end
        return True

    def _take_own(self, start: int, end: int, own: Distribution) -> None:
        """Score rows [start, end), of which only those from `_first_own` on are wanted."""
        first = max(start, self._first_own)
        rows = range(first - start, end - start)
        if self._logprobs is not None:
            ids = self._prompt[first + 1 : end + 1, None].to(own.finite.device)
            # Row i predicts token i + 1, hence the shift by one.
            self._logprobs[first + 1 : end + 1] = own.logprobs(ids, rows)[:, 0].cpu().numpy()
        if self._top is not None:
            ids, values = own.likeliest(self._top.token_ids.shape[1], rows)
            fill_top(self._top, first + 1, ids.cpu().numpy(), values.cpu().numpy())

    def _draw_alternatives(self, row: int, logits: Tensor, own: Distribution, tile: int) -> None:
        n = logits.shape[0]
        drawn_from = Distribution(logits, _plain(n, self._job.params.temperature), tile)
        positions = torch.arange(row + 1, row + n + 1, device=logits.device)
        for draw in range(self._job.prompt_alt_tokens_k):
            # Negative sample numbers: no sample of the request draws from these streams.
            base = torch.tensor(stream_base(self._seed, -1 - draw), device=logits.device)
            keys = fill_up(stream_keys(base.expand(n), positions), tile)
            ids = drawn_from.draw(Race.of(keys, logits.shape[-1]) if self._job.params.temperature else None)
            self._alt_ids[row : row + n, draw] = ids.cpu().numpy()
            self._alt_logprobs[row : row + n, draw] = own.logprobs(ids[:, None])[:, 0].cpu().numpy()

    def fill(self, response: SampleResponse) -> None:
        """Write what was asked for into a response."""
        response.prompt_logprobs_np = self._logprobs
        response.topk_prompt_logprobs_np = self._top
        if self._target_logprobs is not None:
            response.target_prompt_logprobs = TensorData.from_numpy(self._target_logprobs)
        if self._job.prompt_alt_tokens_k:
            response.prompt_alt_tokens = PromptAltTokens(
                TensorData.from_numpy(self._alt_ids), TensorData.from_numpy(self._alt_logprobs)
            )


def _plain(rows: int, temperature: float) -> Shaping:
    """Nothing is cut from any row."""
    return Shaping([temperature] * rows, [-1] * rows, [1.0] * rows)
