"""Checks of a sampling request against a base model and the limits of the service."""

from __future__ import annotations

import numpy as np

from tinsmith.engine.jobs import SampleJob
from tinsmith.settings import Settings
from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.errors import invalid
from tinsmith.types.validation import check_sampling, check_tokens


def check_job(job: SampleJob, info: BaseModelInfo, limits: Settings) -> None:
    """Check one request.

    Raises:
        UserError: naming the field, the value and what was expected.
    """
    length = check_tokens("prompt", job.prompt, info)
    check_sampling(job.params, length, info, limits.max_stop_sequences)
    if not 1 <= job.num_samples <= limits.max_samples:
        raise invalid("num_samples", job.num_samples, f"1 to {limits.max_samples}")
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        if not 0 <= getattr(job, name) <= limits.max_topk:
            raise invalid(name, getattr(job, name), f"0 to {limits.max_topk}")
    last_n = job.prompt_logprobs_last_n
    if last_n is not None and not job.prompt_logprobs:
        raise invalid("prompt_logprobs_last_n", last_n, "to be absent where prompt_logprobs is false")
    if last_n is not None and not 1 <= last_n <= length - 1:
        raise invalid("prompt_logprobs_last_n", last_n, f"1 to {length - 1}, the prompt's length less one")
    if job.target_prompt_logprobs is not None:
        _check_targets(job.target_prompt_logprobs, length, info.vocab_size)


def _check_targets(targets: np.ndarray, length: int, vocab: int) -> None:
    if targets.ndim != 2 or targets.shape[0] != length - 1:
        raise invalid("target_prompt_logprobs.shape", list(targets.shape), f"[{length - 1}, K]")
    bad = targets[(targets < -1) | (targets >= vocab)]
    if bad.size:
        raise invalid("target_prompt_logprobs", int(bad[0]), f"token ids from 0 to {vocab - 1}, or -1")
