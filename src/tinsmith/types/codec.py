"""Between our types and the protobuf bytes of the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.model_input import EncodedTextChunk, ModelInput
from tinsmith.types.outputs import (
    ForwardBackwardOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TopkLogprobs,
)
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.provenance import PromptProvenanceSpan, ProvenanceSpan, ProvenanceSpans, SampledProvenanceSpan
from tinsmith.types.tensor import TensorData, TensorDtype

# Little-endian, whatever the machine: the wire's byte order.
_WIRE_DTYPES: dict[int, np.dtype[Any]] = {
    pb.FLOAT32: np.dtype("<f4"),
    pb.INT64: np.dtype("<i8"),
    pb.INT32: np.dtype("<i4"),
}
_INT32 = np.dtype("<i4")
_INT64 = np.dtype("<i8")
_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True)
class ForwardBackwardRequest:
    """A decoded forward or forward_backward request."""

    model_id: str
    seq_id: int
    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str]
    forward_only: bool


def _parse(message: Message, data: bytes, what: str) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise invalid("body", f"{len(data)} bytes that do not parse", f"a protobuf {what}") from error
    return message


def _array(data: bytes, dtype: int, field: str) -> npt.NDArray[Any]:
    """Read a packed array; bfloat16 widens to float32."""
    if dtype == pb.BFLOAT16:
        _check_whole(data, 2, field)
        # A bfloat16 is the upper half of a float32, and numpy has no type for it.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype not in _WIRE_DTYPES:
        raise invalid(f"{field}.dtype", dtype, "FLOAT32, INT64, INT32 or BFLOAT16")
    # A view of the message's bytes, read-only: a batch is not copied on its way in.
    _check_whole(data, _WIRE_DTYPES[dtype].itemsize, field)
    return np.frombuffer(data, _WIRE_DTYPES[dtype])


def _check_whole(data: bytes, itemsize: int, field: str) -> None:
    if len(data) % itemsize:
        raise invalid(field, f"{len(data)} bytes", f"a multiple of {itemsize} bytes")


# -- tensors ----------------------------------------------------------------------------------------------------------


def encode_tensor(tensor: TensorData) -> pb.Tensor:
    """Return the protobuf form of a tensor."""
    message = pb.Tensor(dtype=pb.INT64 if tensor.dtype == "int64" else pb.FLOAT32, shape=tensor.shape)
    wire = _INT64 if tensor.dtype == "int64" else _FLOAT32
    values = tensor.values.astype(wire, copy=False).tobytes()
    if tensor.sparse_crow_indices is None or tensor.sparse_col_indices is None:
        message.dense = values
    else:
        message.sparse_csr.values = values
        message.sparse_csr.crow_indices = tensor.sparse_crow_indices.astype(_INT64, copy=False).tobytes()
        message.sparse_csr.col_indices = tensor.sparse_col_indices.astype(_INT64, copy=False).tobytes()
    return message


def decode_tensor(message: pb.Tensor, field: str) -> TensorData:
    """Read the protobuf form of a tensor.

    Raises:
        UserError: dtype, bytes and shape do not agree.
    """
    encoding = message.WhichOneof("encoding")
    raw = message.sparse_csr.values if encoding == "sparse_csr" else message.dense
    values = _array(raw, message.dtype, field)
    dtype: TensorDtype = "int64" if values.dtype.kind == "i" else "float32"
    try:
        if encoding == "sparse_csr":
            csr = message.sparse_csr
            crow = _array(csr.crow_indices, pb.INT64, f"{field}.crow_indices")
            col = _array(csr.col_indices, pb.INT64, f"{field}.col_indices")
            return TensorData(values, dtype, list(message.shape), crow, col)
        # No shape on the wire is one dimension; a scalar cannot be told from it, and no loss reads one.
        return TensorData(values, dtype, list(message.shape) or None)
    except UserError as error:
        raise UserError(f"{field}.{error.message}") from error


# -- requests ---------------------------------------------------------------------------------------------------------


def encode_forward_backward_request(
    model_id: str,
    seq_id: int,
    data: Sequence[Datum],
    loss_fn: str,
    loss_fn_config: Mapping[str, float | str] | None = None,
    forward_only: bool = False,
) -> bytes:
    """Return the protobuf body of a forward or forward_backward."""
    request = pb.ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn=loss_fn, forward_only=forward_only)
    for key, value in (loss_fn_config or {}).items():
        # Numbers go into both maps, for services that know only the older one, which has no texts.
        if isinstance(value, str):
            request.loss_fn_config_v2[key].text = value
        else:
            request.loss_fn_config[key] = float(value)
            request.loss_fn_config_v2[key].number = float(value)
    for datum in data:
        message = request.data.add()
        for chunk in datum.model_input.chunks:
            message.model_input.add().encoded_text.tokens = np.asarray(chunk.tokens, _INT32).tobytes()
        for key, tensor in datum.loss_fn_inputs.items():
            message.loss_fn_inputs[key].CopyFrom(encode_tensor(tensor))
        for span in datum.model_input_spans or ():
            _encode_span(message.model_input_spans.add(), span)
        for span in datum.loss_fn_input_spans or ():
            _encode_span(message.loss_fn_input_spans.add(), span)
    return request.SerializeToString()


def _encode_span(message: pb.ProvenanceSpan, span: ProvenanceSpan) -> None:
    arm = message.prompt_tokens if isinstance(span, PromptProvenanceSpan) else message.sampled_tokens
    arm.sequence_id, arm.offset, arm.length = span.sequence_id, span.offset, span.length


def decode_forward_backward_request(body: bytes) -> ForwardBackwardRequest:
    """Read the protobuf body of a forward or forward_backward.

    Raises:
        UserError: the body is malformed.
    """
    # In two steps, of which the service's door takes the first alone: the envelope is small, the datums are not.
    request = parse_forward_backward_request(body)
    return ForwardBackwardRequest(
        model_id=request.model_id,
        seq_id=request.seq_id,
        data=decode_data(request),
        loss_fn=request.loss_fn,
        loss_fn_config=decode_loss_config(request),
        forward_only=request.forward_only,
    )


def parse_forward_backward_request(body: bytes) -> pb.ForwardBackwardRequest:
    """Parse the envelope only; `decode_data` reads the datums.

    Raises:
        UserError: the body is no such message.
    """
    return _parse(pb.ForwardBackwardRequest(), body, "ForwardBackwardRequest")


def decode_loss_config(request: pb.ForwardBackwardRequest) -> dict[str, float | str]:
    """Read the loss config, the later form over the older one."""
    config: dict[str, float | str] = dict(request.loss_fn_config)
    for key, value in request.loss_fn_config_v2.items():
        config[key] = value.text if value.WhichOneof("value") == "text" else value.number
    return config


def decode_data(request: pb.ForwardBackwardRequest) -> list[Datum]:
    """Read the datums.

    Raises:
        UserError: a chunk is no text, or a tensor or a span is malformed.
    """
    return [decode_datum(message, f"data[{index}]") for index, message in enumerate(request.data)]


def decode_datum(message: pb.Datum, field: str) -> Datum:
    """Read one datum; `field` is what messages call it.

    Raises:
        UserError: a chunk is no text, or a tensor or a span is malformed.
    """
    chunks: list[EncodedTextChunk] = []
    for chunk in message.model_input:
        kind = chunk.WhichOneof("chunk")
        if kind != "encoded_text":
            raise invalid(f"{field}.model_input", kind, "encoded_text chunks (the models served read text only)")
        ids = _array(chunk.encoded_text.tokens, pb.INT32, f"{field}.model_input.tokens")
        # `model_construct`: these are ints already, and pydantic would look at each of a million tokens.
        chunks.append(EncodedTextChunk.model_construct(tokens=ids.tolist()))
    inputs = {
        key: decode_tensor(tensor, f"{field}.loss_fn_inputs[{key!r}]") for key, tensor in message.loss_fn_inputs.items()
    }
    model_input_spans = _decode_spans(message.model_input_spans, f"{field}.model_input_spans")
    loss_fn_input_spans = _decode_spans(message.loss_fn_input_spans, f"{field}.loss_fn_input_spans")
    try:
        return Datum(ModelInput.model_construct(chunks=chunks), inputs, model_input_spans, loss_fn_input_spans)
    except UserError as error:
        raise UserError(f"{field}: {error.message}") from error


def _decode_spans(messages: Sequence[pb.ProvenanceSpan], field: str) -> ProvenanceSpans | None:
    # The wire cannot tell a field without spans from one with none; of a datum without tokens they would be the same.
    return [_decode_span(message, f"{field}[{index}]") for index, message in enumerate(messages)] or None


def _decode_span(message: pb.ProvenanceSpan, field: str) -> ProvenanceSpan:
    kind = message.WhichOneof("span")
    if kind is None:
        raise invalid(field, "nothing", "prompt_tokens or sampled_tokens")
    arm = message.prompt_tokens if kind == "prompt_tokens" else message.sampled_tokens
    span = PromptProvenanceSpan if kind == "prompt_tokens" else SampledProvenanceSpan
    try:
        return span(sequence_id=arm.sequence_id, offset=arm.offset, length=arm.length)
    except UserError as error:
        raise UserError(f"{field}: {error.message}") from error


# -- forward_backward outputs -----------------------------------------------------------------------------------------


def encode_forward_backward_output(output: ForwardBackwardOutput) -> bytes:
    """Return the protobuf form; datums whose trailing shapes differ go into several records."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type=output.loss_fn_output_type)
    for key, value in output.metrics.items():
        message.metrics[key] = value
    outputs = output.loss_fn_outputs
    # A record is ragged in the first dimension only: its other dimensions and its fields are the same for all datums.
    start = 0
    while start < len(outputs):
        layout = _layout(outputs[start])
        end = start + 1
        while end < len(outputs) and _layout(outputs[end]) == layout:
            end += 1
        _encode_record(message.loss_fn_outputs.add(), outputs[start:end])
        start = end
    return message.SerializeToString()


def _layout(output: Mapping[str, TensorData]) -> list[tuple[str, str, list[int]]]:
    return [(key, tensor.dtype, tensor.shape[1:]) for key, tensor in output.items()]


def _encode_record(record: pb.ArrayRecord, outputs: Sequence[Mapping[str, TensorData]]) -> None:
    record.num_datums = len(outputs)
    for key, first in outputs[0].items():
        arrays = [output[key].to_numpy() for output in outputs]
        wire = _INT64 if first.dtype == "int64" else _FLOAT32
        batched = record.fields[key]
        batched.dtype = pb.INT64 if first.dtype == "int64" else pb.FLOAT32
        batched.trailing_shape.extend(first.shape[1:])
        # Offsets of bytes, not of elements, and one more than there are datums.
        batched.offsets = np.cumsum([0] + [a.size * wire.itemsize for a in arrays], dtype=_INT64).tobytes()
        batched.data = b"".join(a.astype(wire, copy=False).tobytes() for a in arrays)


def decode_forward_backward_output(body: bytes) -> ForwardBackwardOutput:
    """Read the protobuf form.

    Raises:
        UserError: the bytes are no such message or its arrays do not agree.
    """
    message = _parse(pb.ForwardBackwardOutput(), body, "ForwardBackwardOutput")
    outputs = [datum for record in message.loss_fn_outputs for datum in _decode_record(record)]
    return ForwardBackwardOutput(message.loss_fn_output_type, outputs, dict(message.metrics))


def _decode_record(record: pb.ArrayRecord) -> list[dict[str, TensorData]]:
    data: list[dict[str, TensorData]] = [{} for _ in range(record.num_datums)]
    for key, batched in record.fields.items():
        offsets = _array(batched.offsets, pb.INT64, f"{key}.offsets").tolist()
        if len(offsets) != record.num_datums + 1:
            raise invalid(f"{key}.offsets", f"{len(offsets)} entries", f"{record.num_datums + 1} entries")
        trailing = list(batched.trailing_shape)
        for index, datum in enumerate(data):
            values = _array(batched.data[offsets[index] : offsets[index + 1]], batched.dtype, key)
            # The trailing shape may hold a 0; the leading dimension is then 0 as well.
            rows = values.size // max(1, math.prod(trailing))
            datum[key] = TensorData(values, "int64" if values.dtype.kind == "i" else "float32", [rows, *trailing])
    return data


# -- samples ----------------------------------------------------------------------------------------------------------


def encode_sample_response(response: SampleResponse) -> bytes:
    """Return the protobuf form of a sampling result."""
    message = pb.SampleResponse(prompt_cache_hit_tokens=response.prompt_cache_hit_tokens)
    for sequence in response.sequences:
        out = message.sequences.add()
        out.stop_reason = pb.STOP_REASON_STOP if sequence.stop_reason == "stop" else pb.STOP_REASON_LENGTH
        out.tokens = np.asarray(sequence.tokens, _INT32).tobytes()
        if sequence.logprobs is not None:
            out.logprobs = np.asarray(sequence.logprobs, _FLOAT32).tobytes()
        if sequence.topk_logprobs_np is not None:
            out.topk_sampled_logprobs.CopyFrom(_encode_topk(sequence.topk_logprobs_np))
    if response.prompt_logprobs_np is not None:
        message.prompt_logprobs = response.prompt_logprobs_np.astype(_FLOAT32, copy=False).tobytes()
    if response.topk_prompt_logprobs_np is not None:
        message.topk_prompt_logprobs.CopyFrom(_encode_topk(response.topk_prompt_logprobs_np))
    if response.target_prompt_logprobs is not None:
        message.target_prompt_logprobs.CopyFrom(encode_tensor(response.target_prompt_logprobs))
    if response.prompt_alt_tokens is not None:
        alt = response.prompt_alt_tokens
        # int64 with us, like all token tensors; int32 on the wire, like all lists of tokens.
        message.prompt_alt_tokens.tokens.dtype = pb.INT32
        message.prompt_alt_tokens.tokens.shape.extend(alt.tokens.shape)
        message.prompt_alt_tokens.tokens.dense = alt.tokens.values.astype(_INT32).tobytes()
        message.prompt_alt_tokens.logprobs.CopyFrom(encode_tensor(alt.logprobs))
    return message.SerializeToString()


def _encode_topk(table: TopkLogprobs) -> pb.TopkLogprobs:
    length, k = table.token_ids.shape
    return pb.TopkLogprobs(
        token_ids=table.token_ids.astype(_INT32, copy=False).tobytes(),
        logprobs=table.logprobs.astype(_FLOAT32, copy=False).tobytes(),
        k=k,
        length=length,
    )


def _decode_topk(message: pb.TopkLogprobs) -> TopkLogprobs | None:
    # k 0 and no rows both mean that there is no table: proto3 cannot say that a number was left out.
    if not message.k:
        return None
    ids = np.frombuffer(message.token_ids, _INT32).reshape(-1, message.k)
    logprobs = np.frombuffer(message.logprobs, _FLOAT32).reshape(-1, message.k)
    return TopkLogprobs(ids, logprobs) if len(ids) else None


def decode_sample_response(body: bytes, sequence_ids: Sequence[str] | None = None) -> SampleResponse:
    """Read the protobuf form of a sampling result.

    Args:
        body: a protobuf `SampleResponse`.
        sequence_ids: ids of the sequences, as promised when the request was accepted.

    Raises:
        UserError: the bytes are no such message or its arrays do not agree.
    """
    message = _parse(pb.SampleResponse(), body, "SampleResponse")
    # The message has no ids: they were in the answer to the request, one for each sample.
    ids: Sequence[str | None] = sequence_ids or [None] * len(message.sequences)
    sequences = [_decode_sequence(s, i) for s, i in zip(message.sequences, ids, strict=True)]
    alt = message.prompt_alt_tokens if message.HasField("prompt_alt_tokens") else None
    return SampleResponse(
        sequences=sequences,
        prompt_logprobs_np=(
            np.frombuffer(message.prompt_logprobs, _FLOAT32) if message.HasField("prompt_logprobs") else None
        ),
        topk_prompt_logprobs_np=(
            _decode_topk(message.topk_prompt_logprobs) if message.HasField("topk_prompt_logprobs") else None
        ),
        target_prompt_logprobs=(
            decode_tensor(message.target_prompt_logprobs, "target_prompt_logprobs")
            if message.HasField("target_prompt_logprobs")
            else None
        ),
        prompt_alt_tokens=(
            PromptAltTokens(decode_tensor(alt.tokens, "alt.tokens"), decode_tensor(alt.logprobs, "alt.logprobs"))
            if alt is not None
            else None
        ),
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
    )


def _decode_sequence(message: pb.SampledSequence, sequence_id: str | None) -> SampledSequence:
    return SampledSequence(
        stop_reason="stop" if message.stop_reason == pb.STOP_REASON_STOP else "length",
        tokens=np.frombuffer(message.tokens, _INT32).tolist(),
        logprobs=np.frombuffer(message.logprobs, _FLOAT32).tolist() if message.logprobs else None,
        topk_logprobs_np=(
            _decode_topk(message.topk_sampled_logprobs) if message.HasField("topk_sampled_logprobs") else None
        ),
        sequence_id=sequence_id,
    )
