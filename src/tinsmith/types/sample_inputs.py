"""What a sampling request asks for, read off the wire."""

from __future__ import annotations

from dataclasses import dataclass

from tinsmith.types.errors import invalid
from tinsmith.types.params import SamplingParams
from tinsmith.types.requests import SampleRequest, WirePrompt
from tinsmith.types.tensor import TensorData


@dataclass(frozen=True, kw_only=True)
class SampleInputs:
    """A sampling request, apart from who asks and whose weights answer.

    Attributes:
        prompt: token ids.
        num_samples: completions wanted.
        params: how to sample.
        prompt_logprobs: whether the prompt's own logprobs are wanted.
        topk_prompt_logprobs: alternatives per prompt position; 0 for none.
        topk_sample_logprobs: alternatives per sampled position; 0 for none.
        target_prompt_logprobs: ids whose logprobs are wanted at each prompt position but the first, int64
            [len(prompt) - 1, K]; a cell that holds -1, or that a sparse tensor leaves out, asks for nothing.
        prompt_logprobs_last_n: only the last n prompt positions are wanted; None for all.
        prompt_alt_tokens_k: tokens drawn anew at each prompt position but the first, with logprobs; 0 for none.
    """

    prompt: list[int]
    num_samples: int
    params: SamplingParams
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_logprobs_last_n: int | None = None
    prompt_alt_tokens_k: int = 0


def read_sample_inputs(request: SampleRequest) -> SampleInputs:
    """Read a request.

    Raises:
        UserError: the prompt is no text, or the targets are no tensor.
    """
    # Kept as it came: a sparse tensor of a few cells may have any shape, which is checked before it is filled in.
    targets = request.target_prompt_logprobs
    return SampleInputs(
        prompt=_read_prompt(request.prompt),
        num_samples=request.num_samples,
        params=request.sampling_params,
        prompt_logprobs=bool(request.prompt_logprobs),
        topk_prompt_logprobs=request.topk_prompt_logprobs,
        topk_sample_logprobs=request.topk_sample_logprobs,
        target_prompt_logprobs=None if targets is None else TensorData.model_validate(targets),
        prompt_logprobs_last_n=request.prompt_logprobs_last_n,
        prompt_alt_tokens_k=request.prompt_alt_tokens_k,
    )


def _read_prompt(prompt: WirePrompt) -> list[int]:
    for index, chunk in enumerate(prompt.chunks):
        if chunk.type != "encoded_text":
            raise invalid(f"prompt.chunks[{index}].type", chunk.type, "encoded_text (the models served read text only)")
        if chunk.tokens is None:
            raise invalid(f"prompt.chunks[{index}].tokens", None, "a list of token ids")
    return [token for chunk in prompt.chunks for token in chunk.tokens or ()]
