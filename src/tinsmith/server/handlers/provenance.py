"""Looking up what a datum says that it was sampled as: recorded logprobs enter the request before it is stored.

So an engine sees a request that holds all that its loss reads, and a replay needs no recording, which may be gone by
then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.server.store.recordings import Recording
from tinsmith.types.codec import decode_datum, encode_tensor
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.outputs import SampledSequence
from tinsmith.types.provenance import PromptProvenanceSpan, ProvenanceSpan, ProvenanceSpans, check_tiling
from tinsmith.types.tensor import TensorData

# What a client sends back of logprobs that it was given may have passed through bfloat16, which keeps 8 bits.
_TOLERANCE = 1e-2


def named_requests(request: Any) -> set[str]:
    """Return the sampling requests that the spans of a protobuf ForwardBackwardRequest name."""
    spans = (s for datum in request.data for s in (*datum.model_input_spans, *datum.loss_fn_input_spans))
    return {_request_of(s.sampled_tokens.sequence_id or s.prompt_tokens.sequence_id) for s in spans}


def _request_of(sequence_id: str) -> str:
    return sequence_id.rpartition("-")[0]


def fill_in(request: Any, recordings: Mapping[str, Recording]) -> bytes:
    """Return a request as bytes in which every datum has the logprobs that were recorded, in place of its spans.

    Args:
        request: a protobuf ForwardBackwardRequest, which is changed.
        recordings: those of `named_requests` that its owner has.

    Raises:
        UserError: naming the datum, the span and what was expected: a datum has no spans, they do not cover its fields,
            name a sequence that is not kept or tokens that were not drawn, or something trains that was not sampled.
    """
    for index, message in enumerate(request.data):
        datum = decode_datum(message, f"data[{index}]")
        try:
            logprobs = _recorded_logprobs(datum, recordings)
        except UserError as error:
            raise UserError(f"data[{index}].{error.message}") from error
        message.loss_fn_inputs["logprobs"].CopyFrom(encode_tensor(TensorData.from_numpy(logprobs)))
        del message.model_input_spans[:]
        del message.loss_fn_input_spans[:]
    return request.SerializeToString()


def _recorded_logprobs(datum: Datum, recordings: Mapping[str, Recording]) -> npt.NDArray[np.float32]:
    if datum.model_input_spans is None or datum.loss_fn_input_spans is None:
        expected = "spans of recorded sequences (Datum.with_provenance), which this loss reads"
        raise invalid("loss_fn_input_spans", None, expected)
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None or len(targets.shape) != 1:
        shape = None if targets is None else targets.shape
        raise invalid("loss_fn_inputs['target_tokens'].shape", shape, f"[{datum.model_input.length}]")
    tokens = np.asarray(datum.model_input.to_ints(), np.int64)
    for name, span, at in _runs("model_input_spans", datum.model_input_spans, len(tokens)):
        _check_tokens("model_input", tokens, at, _recorded_tokens(name, span, recordings))
    logprobs = np.zeros(targets.shape[0], np.float32)
    for name, span, at in _runs("loss_fn_input_spans", datum.loss_fn_input_spans, targets.shape[0]):
        recorded = _recorded_tokens(name, span, recordings)
        if isinstance(span, PromptProvenanceSpan):
            # Nothing was drawn there, so there is no logprob. What the targets are, no loss will see.
            _check_untrained(datum, span, at)
            continue
        _check_tokens("loss_fn_inputs['target_tokens']", targets.values, at, recorded)
        sequence = _sequence(name, span, recordings)
        logprobs[at : at + span.length] = (sequence.logprobs or ())[span.offset : span.offset + span.length]
        _check_given(datum, logprobs, at, span)
    return logprobs


def _runs(field: str, spans: ProvenanceSpans, length: int) -> Iterator[tuple[str, ProvenanceSpan, int]]:
    """Return each span with its name and the position where it begins."""
    check_tiling(field, spans, length)
    at = 0
    for index, span in enumerate(spans):
        yield f"{field}[{index}]", span, at
        at += span.length


def _recorded_tokens(name: str, span: ProvenanceSpan, recordings: Mapping[str, Recording]) -> npt.NDArray[Any]:
    sequence = _sequence(name, span, recordings)
    of_prompt = isinstance(span, PromptProvenanceSpan)
    tokens = recordings[_request_of(span.sequence_id)].prompt if of_prompt else np.asarray(sequence.tokens)
    if span.offset + span.length > len(tokens):
        what = "prompt tokens" if of_prompt else "sampled tokens"
        expected = f"at most {len(tokens)}, the {what} of {span.sequence_id}"
        raise invalid(f"{name}.offset + length", span.offset + span.length, expected)
    return tokens[span.offset : span.offset + span.length]


def _sequence(name: str, span: ProvenanceSpan, recordings: Mapping[str, Recording]) -> SampledSequence:
    recording = recordings.get(_request_of(span.sequence_id))
    number = span.sequence_id.rpartition("-")[2]
    if recording is not None and number.isascii() and number.isdigit() and int(number) < len(recording.sequences):
        return recording.sequences[int(number)]
    expected = "a sequence of yours that was sampled with record_stability_info=True and is still kept"
    raise invalid(f"{name}.sequence_id", span.sequence_id, expected)


def _check_tokens(field: str, tokens: npt.NDArray[Any], at: int, recorded: npt.NDArray[Any]) -> None:
    wrong = np.flatnonzero(tokens[at : at + len(recorded)] != recorded)
    if wrong.size:
        first = int(wrong[0])
        expected = f"{int(recorded[first])}, which the span there says that it is"
        raise invalid(f"{field}[{at + first}]", int(tokens[at + first]), expected)


def _check_untrained(datum: Datum, span: ProvenanceSpan, at: int) -> None:
    advantages = datum.loss_fn_inputs.get("advantages")
    if advantages is None:
        return  # refused with the other inputs
    wrong = np.flatnonzero(advantages.values[at : at + span.length])
    if wrong.size:
        position = at + int(wrong[0])
        found = float(advantages.values[position])
        raise invalid(f"loss_fn_inputs['advantages'][{position}]", found, "0, since the span there is of a prompt")


def _check_given(datum: Datum, recorded: npt.NDArray[np.float32], at: int, span: ProvenanceSpan) -> None:
    given = datum.loss_fn_inputs.get("logprobs")
    if given is None:
        return
    if given.shape != list(recorded.shape):
        raise invalid("loss_fn_inputs['logprobs'].shape", given.shape, f"{list(recorded.shape)}, or no logprobs at all")
    here = slice(at, at + span.length)
    wrong = np.flatnonzero(~np.isclose(given.values[here], recorded[here], rtol=_TOLERANCE, atol=_TOLERANCE))
    if wrong.size:
        position = at + int(wrong[0])
        expected = f"the recorded {float(recorded[position]):.6g}, or no logprobs at all: this loss reads the recorded"
        raise invalid(f"loss_fn_inputs['logprobs'][{position}]", float(given.values[position]), expected)
