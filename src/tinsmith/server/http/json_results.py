"""JSON forms of protobuf results, for clients that do not accept protobuf."""

from __future__ import annotations

from typing import Any

import orjson

from tinsmith.server.state.records import Record
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.outputs import SampledSequence
from tinsmith.types.tensor import TensorData

# A result is eight times as long in JSON, and making it stops everybody meanwhile.
MOST_BYTES = 16 * 2**20


def to_json(record: Record, payload: bytes) -> bytes:
    """Return the JSON of a forward_backward's or sample's result."""
    message = _sample(payload) if record.kind is OpKind.SAMPLE else _passes(payload)
    # Arrays are written as they are: a list of Python's numbers takes ten times their memory. NaN becomes null.
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def _passes(payload: bytes) -> dict[str, Any]:
    output = decode_forward_backward_output(payload)
    return {
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": [
            {key: _tensor(tensor) for key, tensor in datum.items()} for datum in output.loss_fn_outputs
        ],
        "metrics": output.metrics,
    }


def _tensor(tensor: TensorData) -> dict[str, Any]:
    # What we answer with is dense.
    return {"data": tensor.values, "dtype": tensor.dtype, "shape": tensor.shape}


def _sample(payload: bytes) -> dict[str, Any]:
    response = decode_sample_response(payload)
    targets = response.target_prompt_logprobs
    return {
        "type": "sample",
        "sequences": [_sequence(sequence) for sequence in response.sequences],
        "prompt_logprobs": response.prompt_logprobs,
        "topk_prompt_logprobs": response.topk_prompt_logprobs,
        "target_prompt_logprobs": _tensor(targets) if targets is not None else None,
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    }


def _sequence(sequence: SampledSequence) -> dict[str, Any]:
    return {
        "stop_reason": sequence.stop_reason,
        "tokens": sequence.tokens,
        "logprobs": sequence.logprobs,
        "topk_logprobs": sequence.topk_logprobs,
    }
