"""Checks of requests against a base model, made at the door so that an engine sees only sound work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.settings import Settings
from tinsmith.types.checks.pair_checks import check_even, check_pairs
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.loss_table import LARGEST_NUMBER, LOSSES, resolve_config
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams
from tinsmith.types.provenance import check_tiling
from tinsmith.types.sample_inputs import SampleInputs
from tinsmith.types.tensor import TensorData

_LONGEST_STOP = 1024


def check_training_data(
    data: Sequence[Datum], loss_fn: str, loss_fn_config: dict[str, Any] | None, info: BaseModelInfo, max_datums: int
) -> None:
    """Check one forward or forward_backward request.

    Raises:
        UserError: naming the datum, the field, the value and what was expected.
    """
    resolve_config(loss_fn, loss_fn_config)
    check_count(len(data), max_datums)
    if LOSSES[loss_fn].paired:
        check_even(data, loss_fn)
    for index, datum in enumerate(data):
        try:
            _check_datum(datum, loss_fn, info)
        except UserError as error:
            raise UserError(f"data[{index}].{error.message}", error.status) from error
    if LOSSES[loss_fn].paired:
        check_pairs(data)


def check_count(datums: int, most: int) -> None:
    """Check the number of datums of a request.

    Raises:
        UserError: there is none, or there are too many.
    """
    if not datums:
        raise invalid("data", "0 datums", "at least one datum")
    if datums > most:
        raise invalid("data", f"{datums} datums", f"at most {most} in one request")


def _check_datum(datum: Datum, loss_fn: str, info: BaseModelInfo) -> None:
    spec = LOSSES[loss_fn]
    length = _check_tokens("model_input", datum.model_input.to_ints(), info)
    for key in spec.required:
        if key not in datum.loss_fn_inputs:
            raise invalid(f"loss_fn_inputs[{key!r}]", None, f"an array of length {length} for loss_fn {loss_fn!r}")
    targets_shape = datum.loss_fn_inputs["target_tokens"].shape
    for key, tensor in datum.loss_fn_inputs.items():
        name = f"loss_fn_inputs[{key!r}]"
        if key not in spec.required and key not in spec.optional:
            known = ", ".join((*spec.required, *spec.optional))
            raise invalid(name, "given", f"only {known} for loss_fn {loss_fn!r}")
        wanted = "int64" if key == "target_tokens" else "float32"
        if tensor.dtype != wanted:
            raise invalid(f"{name}.dtype", tensor.dtype, wanted)
        two_d = spec.allows_2d and len(tensor.shape) == 2
        if not two_d and len(tensor.shape) != 1:
            raise invalid(f"{name}.shape", tensor.shape, f"[{length}]" + (f" or [{length}, K]" * spec.allows_2d))
        if tensor.shape[0] != length:
            raise invalid(f"{name}.shape", tensor.shape, f"the length of model_input, {length}")
        if tensor.shape != targets_shape:
            raise invalid(f"{name}.shape", tensor.shape, f"the shape of target_tokens, {targets_shape}")
        if wanted == "int64":
            _check_ids(name, tensor.values, info.vocab_size)
        else:
            _check_finite(name, tensor.values)
    _check_ratio_mask(datum)
    for field, spans in (
        ("model_input_spans", datum.model_input_spans),
        ("loss_fn_input_spans", datum.loss_fn_input_spans),
    ):
        if spans is not None:
            check_tiling(field, spans, length)


def _check_ratio_mask(datum: Datum) -> None:
    """Check that a sequence that trains has a ratio: one over no position at all would be no number."""
    mask = datum.loss_fn_inputs.get("sequence_ratio_mask")
    if mask is not None and not mask.values.any() and datum.loss_fn_inputs["advantages"].values.any():
        expected = "a number other than 0 somewhere, because some advantages are not 0"
        raise invalid("loss_fn_inputs['sequence_ratio_mask']", "zeros only", expected)


def _check_tokens(field: str, tokens: Sequence[int], info: BaseModelInfo) -> int:
    """Check that tokens are a sequence that the model can read; return its length.

    Raises:
        UserError: there are none, more than the context, or ids outside the vocabulary.
    """
    if not tokens:
        raise invalid(field, "0 tokens", "at least one token")
    if len(tokens) > info.context_length:
        raise invalid(field, f"{len(tokens)} tokens", f"at most the context length {info.context_length}")
    try:
        ids = np.asarray(tokens, dtype=np.int64)
    except OverflowError:
        raise invalid(field, max(tokens, key=abs), f"token ids from 0 to {info.vocab_size - 1}") from None
    _check_ids(field, ids, info.vocab_size)
    return len(tokens)


def _check_ids(field: str, ids: npt.NDArray[Any], vocab_size: int) -> None:
    bad = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if bad.size:
        raise invalid(f"{field}[{int(bad[0])}]", int(ids[bad[0]]), f"a token id from 0 to {vocab_size - 1}")


def _check_finite(field: str, values: npt.NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise invalid(f"{field}[{int(bad[0])}]", float(values[bad[0]]), "a finite number")


def check_adam(params: AdamParams) -> None:
    """Check one optimizer step.

    Raises:
        UserError: a parameter is not finite or out of range.
    """
    for name, value in params.model_dump().items():
        if not np.isfinite(value) or value < 0:
            raise invalid(f"adam_params.{name}", value, "a finite number that is not negative")
        if value > LARGEST_NUMBER:
            raise invalid(f"adam_params.{name}", value, f"at most {LARGEST_NUMBER:g}")
    for name in ("beta1", "beta2"):
        if getattr(params, name) >= 1:
            raise invalid(f"adam_params.{name}", getattr(params, name), "a number in [0, 1)")


def check_lora(config: LoraConfig, max_rank: int) -> None:
    """Check an adapter's shape.

    Raises:
        UserError: the rank or the seed is out of range, or nothing is to be trained.
    """
    if not 1 <= config.rank <= max_rank:
        raise invalid("lora_config.rank", config.rank, f"1 to {max_rank}")
    if not (config.train_attn or config.train_mlp or config.train_unembed):
        raise invalid("lora_config", "nothing to train", "train_attn, train_mlp or train_unembed")
    if config.seed is not None and not -(2**63) <= config.seed < 2**63:
        raise invalid("lora_config.seed", config.seed, "a 64-bit whole number")


def check_sampling(asked: SampleInputs, info: BaseModelInfo, limits: Settings) -> None:
    """Check one sampling request: what passes here, an engine computes.

    The service's door asks it, and the engine asks it again for those who embed one. An engine knows one more reason
    to refuse, which is no fault of the request: a KV cache that can't hold it.

    Raises:
        UserError: naming the field, the value and what was expected.
    """
    length = _check_tokens("prompt", asked.prompt, info)
    room = info.context_length - length
    if room < 1:
        raise invalid("prompt", f"{length} tokens", f"at most {info.context_length - 1}, to leave room for one")
    _check_params(asked.params, info, limits.max_stop_sequences)
    if not 1 <= asked.num_samples <= limits.max_samples:
        raise invalid("num_samples", asked.num_samples, f"1 to {limits.max_samples}")
    widest = min(limits.max_topk, info.vocab_size)
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        if not 0 <= getattr(asked, name) <= widest:
            raise invalid(name, getattr(asked, name), f"0 to {widest}")
    _check_tables(asked, length, room, limits.max_table_cells)
    _check_last_n(asked, length)
    if asked.target_prompt_logprobs is not None:
        _check_targets(asked.target_prompt_logprobs, length, info, widest)


def _check_last_n(asked: SampleInputs, length: int) -> None:
    last_n = asked.prompt_logprobs_last_n
    if last_n is None:
        return
    if not asked.prompt_logprobs:
        raise invalid("prompt_logprobs_last_n", last_n, "to be absent where prompt_logprobs is false")
    # The first token of a prompt has no logprob. A prompt of that token alone may ask for its last 1 all the same, so
    # that scoring a completion behind an empty context is no special case; the answer holds no number.
    most = max(1, length - 1)
    if not 1 <= last_n <= most:
        raise invalid("prompt_logprobs_last_n", last_n, f"1 to {most}, the prompt's length less one")


def _check_tables(asked: SampleInputs, length: int, room: int, most: int) -> None:
    """Check how large the tables are that an answer may have: a short request can ask for gigabytes."""
    longest = min(asked.params.max_tokens or room, room)
    tables = {
        "topk_prompt_logprobs": length * asked.topk_prompt_logprobs,
        "prompt_alt_tokens_k": length * asked.prompt_alt_tokens_k,
        "topk_sample_logprobs": asked.num_samples * longest * asked.topk_sample_logprobs,
    }
    for name, cells in tables.items():
        if cells > most:
            expected = f"at most {most} cells of alternatives (TINSMITH_MAX_TABLE_CELLS), not {cells}"
            raise invalid(name, getattr(asked, name), expected)


def _check_targets(targets: TensorData, length: int, info: BaseModelInfo, widest: int) -> None:
    field = "target_prompt_logprobs"
    if targets.dtype != "int64":
        raise invalid(f"{field}.dtype", targets.dtype, "int64")
    if len(targets.shape) != 2 or targets.shape[0] != length - 1 or not 1 <= targets.shape[1] <= widest:
        raise invalid(f"{field}.shape", targets.shape, f"[{length - 1}, K] with K from 1 to {widest}")
    bad = targets.values[(targets.values < -1) | (targets.values >= info.vocab_size)]
    if bad.size:
        raise invalid(field, int(bad[0]), f"-1 or a token id from 0 to {info.vocab_size - 1}")


def _check_params(params: SamplingParams, info: BaseModelInfo, max_stops: int) -> None:
    # 63 bits wherever a number ends up in an int64 tensor.
    if params.max_tokens is not None and not 1 <= params.max_tokens < 2**63:
        raise invalid("sampling_params.max_tokens", params.max_tokens, "at least 1, and 63 bits")
    if not np.isfinite(params.temperature) or params.temperature < 0:
        raise invalid("sampling_params.temperature", params.temperature, "a finite number that is not negative")
    if not 0 < params.top_p <= 1:
        raise invalid("sampling_params.top_p", params.top_p, "0 < top_p <= 1")
    if params.top_k != -1 and not 1 <= params.top_k < 2**63:
        raise invalid("sampling_params.top_k", params.top_k, "-1 (no limit) or at least 1, and 63 bits")
    # Signed or unsigned: the protocol takes any 64 bits, and only those count (`randomness.stream_base`).
    if params.seed is not None and not -(2**63) <= params.seed < 2**64:
        raise invalid("sampling_params.seed", params.seed, "a 64-bit whole number")
    _check_stop(params.stop, info, max_stops)


def _check_stop(stop: Any, info: BaseModelInfo, max_stops: int) -> None:
    if stop is None:
        return
    stops: list[Any] = [stop] if isinstance(stop, str) else list(stop)
    if not stops:
        return
    if len(stops) > max_stops:
        raise invalid("sampling_params.stop", f"{len(stops)} stops", f"at most {max_stops}")
    if len({isinstance(s, str) for s in stops}) > 1:
        raise invalid("sampling_params.stop", stops, "strings or token ids, not both")
    if isinstance(stops[0], str) and not info.has_tokenizer:
        raise invalid("sampling_params.stop", stops, "token ids: this model has no tokenizer to find strings with")
    for item in stops:
        if isinstance(item, str) and not item:
            raise invalid("sampling_params.stop", item, "a string that is not empty")
        # Whatever is drawn is compared with each of them.
        if isinstance(item, str) and len(item) > _LONGEST_STOP:
            raise invalid("sampling_params.stop", item, f"strings of at most {_LONGEST_STOP} characters")
        if isinstance(item, int) and not 0 <= item < info.vocab_size:
            raise invalid("sampling_params.stop", item, f"a token id from 0 to {info.vocab_size - 1}")
