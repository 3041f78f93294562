"""Spans that say where a datum's tokens come from: checked where they are made, in the official bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tinker

import tinsmith
from tinsmith.types import codec
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.provenance import PromptProvenanceSpan, SampledProvenanceSpan

pytestmark = pytest.mark.row(203)

PLAIN = {"target_tokens": [2, 3, 4], "advantages": [0.0, 1.0, 1.0]}
PROMPT = {"sequence_id": "a-0", "offset": 1, "length": 1}
SAMPLED = {"sequence_id": "a-0", "length": 2}


def spans(package: Any) -> list[Any]:
    return [package.PromptProvenanceSpan(**PROMPT), package.SampledProvenanceSpan(**SAMPLED)]


def test_a_datum_with_provenance_travels_as_the_official_one_does() -> None:
    from tinker.proto.request_conv import forward_backward_request_to_proto
    from tinker.types import ForwardBackwardInput, ForwardBackwardRequest

    datum = Datum(tokens=[1, 2, 3], targets=None, loss_fn_inputs=PLAIN).with_provenance(
        spans(tinsmith), spans(tinsmith)
    )
    body = codec.encode_forward_backward_request("m", 1, [datum], "stable_reinforce")
    assert codec.decode_forward_backward_request(body).data == [datum]
    theirs = tinker.Datum(model_input=tinker.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs=PLAIN).with_provenance(
        spans(tinker), spans(tinker)
    )
    request = ForwardBackwardRequest(
        forward_backward_input=ForwardBackwardInput(data=[theirs], loss_fn="stable_reinforce"), model_id="m", seq_id=1
    )
    official = forward_backward_request_to_proto(request).SerializeToString()
    assert pb.ForwardBackwardRequest.FromString(official) == pb.ForwardBackwardRequest.FromString(body)


def test_spans_stay_with_a_datum_that_is_changed() -> None:
    datum = Datum([1, 2, 3], PLAIN).with_provenance(spans(tinsmith), spans(tinsmith))
    other = dataclasses.replace(datum, loss_fn_inputs={**datum.loss_fn_inputs, "weights": [0.0, 1.0, 1.0]})
    assert other.model_input_spans == other.loss_fn_input_spans == spans(tinsmith)
    assert other.with_provenance(*[[SampledProvenanceSpan(sequence_id="b-0", length=3)]] * 2) != other != datum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptProvenanceSpan(sequence_id="", length=1), r"PromptProvenanceSpan\.sequence_id: got ''"),
        (lambda: SampledProvenanceSpan(sequence_id="a", length=-1), r"SampledProvenanceSpan\.length: got -1"),
        (lambda: SampledProvenanceSpan(sequence_id="a", offset=-1, length=1), r"\.offset: got -1, expected 0 or more"),
        (
            lambda: Datum([1, 2, 3], PLAIN).with_provenance(spans(tinsmith)[:1], spans(tinsmith)),
            r"with_provenance\.model_input: got 'spans over 1 positions', expected spans over all 3",
        ),
        (
            lambda: Datum([1, 2, 3], PLAIN).with_provenance(spans(tinsmith), [*spans(tinsmith)] * 2),
            r"with_provenance\.loss_fn_inputs: got 'spans over 6 positions'",
        ),
        (
            lambda: Datum([1, 2, 3], PLAIN).with_provenance(["a-0"], spans(tinsmith)),
            r"model_input\[0\]: got 'a-0', expected a PromptProvenanceSpan or a SampledProvenanceSpan",
        ),
        (
            lambda: Datum([1, 2, 3], PLAIN, model_input_spans=spans(tinsmith)),
            r"Datum\.loss_fn_input_spans: got None, expected spans of both fields, or of neither",
        ),
    ],
)
def test_mistakes_are_named_where_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
