"""What the scheduler hands to the engine and gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tinsmith.types.datum import Datum
from tinsmith.types.params import SamplingParams


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One datum of a forward or forward_backward.

    Attributes:
        model_id: the training run whose adapter computes it.
        datum: tokens and loss inputs.
        loss_fn: name of the loss.
        loss_fn_config: its options.
        backward: whether its gradient is added to the adapter's.
    """

    model_id: str
    datum: Datum
    loss_fn: str
    loss_fn_config: Mapping[str, float | str]
    backward: bool


@dataclass(frozen=True, slots=True)
class RowOutput:
    """The result of one `TrainRow`.

    Attributes:
        logprobs: of the targets, shape of the row's target_tokens; float32 (float64 in a float64 engine).
        loss: summed over the row.
        metrics: further sums of the row, name without the merge suffix.
    """

    logprobs: npt.NDArray[np.floating]
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleJob:
    """One sampling request.

    Attributes:
        request_id: returned with the result.
        sampler_id: the snapshot to sample from.
        prompt: token ids.
        num_samples: completions wanted.
        params: how to sample.
        prompt_logprobs: whether the prompt's own logprobs are wanted.
        topk_prompt_logprobs: alternatives per prompt position; 0 for none.
        topk_sample_logprobs: alternatives per sampled position; 0 for none.
        target_prompt_logprobs: ids whose logprobs are wanted at each prompt position, int64 (len(prompt) - 1, K).
        prompt_logprobs_last_n: only the last n prompt positions are wanted; None for all.
        prompt_alt_tokens_k: tokens drawn anew at each prompt position, with logprobs; 0 for none.
    """

    request_id: str
    sampler_id: str
    prompt: list[int]
    num_samples: int
    params: SamplingParams
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: npt.NDArray[np.int64] | None = None
    prompt_logprobs_last_n: int | None = None
    prompt_alt_tokens_k: int = 0
