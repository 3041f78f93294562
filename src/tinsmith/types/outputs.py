"""What the service answers: forward_backward outputs, samples, optimizer metrics, checkpoint paths."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tinsmith.types.tensor import TensorData

StopReason = Literal["stop", "length"]
LossFnOutput = dict[str, TensorData]

# A cell of a top-k table that holds no token: the protocol's number.
EMPTY_TOPK_LOGPROB = -99999.0


@dataclass
class ForwardBackwardOutput:
    """Outputs of a forward or forward_backward.

    Attributes:
        loss_fn_output_type: a label of the outputs' layout.
        loss_fn_outputs: one dict per datum; `logprobs` is float32 of the shape of the datum's target_tokens.
        metrics: name to value; the part behind the colon says how chunks are merged (`loss:sum`).
    """

    loss_fn_output_type: str
    loss_fn_outputs: list[LossFnOutput]
    metrics: dict[str, float]


class OptimStepResponse(BaseModel):
    """Outcome of an optimizer step; `metrics` holds e.g. the gradient norm."""

    metrics: dict[str, float] | None = None


class _Saved(BaseModel):
    path: str
    failed_operations: int = 0
    first_failure: str | None = None


class SaveWeightsResponse(_Saved):
    """Where a training state was saved, and what failed before.

    Attributes:
        path: the checkpoint's address.
        failed_operations: training operations of the same client that failed before the save, since it was made or
            since it last loaded a state: the saved weights lack them.
        first_failure: method and reason of the first of them; None without one.
    """


class SaveWeightsForSamplerResponse(_Saved):
    """Where weights for sampling were saved, and what failed before.

    Attributes:
        path: the checkpoint's address.
        failed_operations: as of `SaveWeightsResponse`.
        first_failure: as of `SaveWeightsResponse`.
    """


class LoadWeightsResponse(BaseModel):
    """What was loaded."""

    path: str | None = None


@dataclass(eq=False)
class TopkLogprobs:
    """A table of the k likeliest tokens at each of N positions.

    Attributes:
        token_ids: int32, shape (N, k).
        logprobs: float32, shape (N, k); an empty cell holds token 0 and -99999.0.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopkLogprobs):
            return NotImplemented
        return np.array_equal(self.token_ids, other.token_ids) and np.array_equal(self.logprobs, other.logprobs)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def rows(self) -> list[list[tuple[int, float]] | None]:
        """Return a list of (token, logprob) per position; None where the position has none."""
        found: list[list[tuple[int, float]] | None] = []
        for ids, logprobs in zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True):
            row = [(t, lp) for t, lp in zip(ids, logprobs, strict=True) if lp != EMPTY_TOPK_LOGPROB]
            found.append(row or None)
        return found


@dataclass
class PromptAltTokens:
    """k tokens drawn with replacement at each prompt position after the first.

    Attributes:
        tokens: int64, shape (len - 1, k).
        logprobs: float32, shape (len - 1, k).
    """

    tokens: TensorData
    logprobs: TensorData


@dataclass
class SampledSequence:
    """One completion.

    Attributes:
        stop_reason: `stop` at a stop sequence or token, `length` at max_tokens or the end of the context.
        tokens: the sampled ids, a stop token included.
        logprobs: logprob of each token under the distribution it was drawn from.
        topk_logprobs_np: the likeliest tokens at each position, where asked for.
        sequence_id: opaque id of the sequence.
    """

    stop_reason: StopReason
    tokens: list[int]
    logprobs: list[float] | None = None
    topk_logprobs_np: TopkLogprobs | None = None
    sequence_id: str | None = None

    @property
    def topk_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        """The likeliest (token, logprob) pairs at each position, where asked for."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.rows()


@dataclass
class SampleResponse:
    """Completions of one prompt.

    Attributes:
        sequences: one per sample.
        prompt_logprobs_np: float32, shape (prompt length,), NaN where there is none (always at 0).
        topk_prompt_logprobs_np: the likeliest tokens at each prompt position.
        target_prompt_logprobs: logprobs of the ids asked for, float32, shape (len - 1, K).
        prompt_alt_tokens: alternative tokens at each prompt position.
        prompt_cache_hit_tokens: prompt tokens that were found in the cache.
    """

    sequences: list[SampledSequence]
    prompt_logprobs_np: npt.NDArray[np.float32] | None = None
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens: PromptAltTokens | None = None
    prompt_cache_hit_tokens: int = 0
    type: Literal["sample"] = field(default="sample", repr=False)

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """Logprob of each prompt token, None where there is none."""
        if self.prompt_logprobs_np is None:
            return None
        return [None if np.isnan(lp) else float(lp) for lp in self.prompt_logprobs_np]

    @property
    def topk_prompt_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        """The likeliest (token, logprob) pairs at each prompt position, where asked for."""
        return None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.rows()


def reduce_metrics(chunks: list[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Merge the metrics of the chunks of one call, by the rule behind each key's colon.

    Args:
        chunks: (metrics, number of datums) of each chunk, in order.
    """
    merged: dict[str, float] = {}
    first = chunks[0][0]
    for key in first:
        # A mean over some of the chunks would look like one over all.
        if any(key not in metrics for metrics, _ in chunks):
            continue
        values = [metrics[key] for metrics, _ in chunks]
        weights = [count for _, count in chunks]
        rule = key.rpartition(":")[2]
        merged.update(_reduce_one(key, rule, values, weights))
    return merged


def _reduce_one(key: str, rule: str, values: list[float], weights: list[int]) -> dict[str, float]:
    # By number of datums, so that a small last chunk does not count as much as a full one.
    mean = sum(v * w for v, w in zip(values, weights, strict=True)) / max(1, sum(weights))
    reducers: dict[str, Any] = {
        "sum": lambda: sum(values),
        "min": lambda: min(values),
        "max": lambda: max(values),
        "mean": lambda: mean,
        "slack": lambda: max(values) - mean,
        "hash2": lambda: float(sum(int(v) for v in values) % 2**64),
    }
    if rule == "unique":
        return {key if i == 0 else f"{key}_{i}": v for i, v in enumerate(values)}
    # A rule that is not known here cannot be merged, and a wrong number is worse than none.
    return {key: float(reducers[rule]())} if rule in reducers else {}
