"""The wire forms keep every value, and bytes that are no message are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import tinker
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinsmith.types import codec
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.model_input import EncodedTextChunk, ModelInput
from tinsmith.types.outputs import (
    ForwardBackwardOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TopkLogprobs,
)
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.tensor import TensorData

FLOATS = st.floats(width=32, allow_nan=False)
TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12)


@st.composite
def dense_tensors(draw: st.DrawFn) -> TensorData:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5))
    if draw(st.booleans()):
        return TensorData.from_numpy(draw(hnp.arrays(np.int64, shape)))
    return TensorData.from_numpy(draw(hnp.arrays(np.float32, shape, elements=FLOATS)))


@st.composite
def sparse_tensors(draw: st.DrawFn) -> TensorData:
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    cols = [c for n in counts for c in sorted(draw(st.permutations(range(columns)))[:n])]
    values = draw(hnp.arrays(np.float32, len(cols), elements=FLOATS))
    return TensorData(values, "float32", [rows, columns], np.cumsum([0, *counts]), cols)


@st.composite
def datums(draw: st.DrawFn) -> Datum:
    chunks = [EncodedTextChunk(tokens=t) for t in draw(st.lists(TOKENS, min_size=1, max_size=3))]
    inputs = draw(st.dictionaries(st.text(max_size=8), st.one_of(dense_tensors(), sparse_tensors()), max_size=4))
    return Datum(ModelInput(chunks=chunks), inputs)


CONFIGS = st.dictionaries(st.text(max_size=8), st.one_of(st.floats(allow_nan=False), st.text(max_size=8)), max_size=3)


@given(st.lists(datums(), max_size=4), CONFIGS, st.booleans(), st.integers(0, 2**31 - 1))
def test_forward_backward_requests_round_trip(
    data: list[Datum], config: dict[str, float | str], forward_only: bool, seq_id: int
) -> None:
    body = codec.encode_forward_backward_request("run:train:0", seq_id, data, "ppo", config, forward_only)
    request = codec.decode_forward_backward_request(body)
    assert request.data == data
    assert (request.model_id, request.seq_id, request.loss_fn) == ("run:train:0", seq_id, "ppo")
    assert request.loss_fn_config == config
    assert request.forward_only is forward_only


@given(st.lists(st.tuples(dense_tensors(), dense_tensors()), max_size=5))
def test_forward_backward_outputs_round_trip(pairs: list[tuple[TensorData, TensorData]]) -> None:
    output = ForwardBackwardOutput("arrays", [{"logprobs": a, "other": b} for a, b in pairs], {"loss:sum": 1.5})
    decoded = codec.decode_forward_backward_output(codec.encode_forward_backward_output(output))
    # A row of zero columns has no bytes, so its row count cannot travel: such outputs do not occur.
    for sent, got in zip(output.loss_fn_outputs, decoded.loss_fn_outputs, strict=True):
        for key in sent:
            if 0 not in sent[key].shape[1:]:
                assert got[key] == sent[key]
    assert decoded.metrics == output.metrics


@st.composite
def sample_responses(draw: st.DrawFn) -> SampleResponse:
    def topk(length: int) -> TopkLogprobs:
        ids = draw(hnp.arrays(np.int32, (length, 2), elements=st.integers(0, 99)))
        return TopkLogprobs(ids, draw(hnp.arrays(np.float32, (length, 2), elements=FLOATS)))

    sequences = []
    for tokens in draw(st.lists(TOKENS, max_size=3)):
        logprobs = draw(st.lists(FLOATS, min_size=len(tokens), max_size=len(tokens)))
        sequences.append(
            SampledSequence(draw(st.sampled_from(["stop", "length"])), tokens, logprobs, topk(len(tokens)))
        )
    prompt = draw(st.integers(2, 6))
    return SampleResponse(
        sequences=sequences,
        prompt_logprobs_np=draw(hnp.arrays(np.float32, prompt, elements=FLOATS)),
        topk_prompt_logprobs_np=topk(prompt),
        target_prompt_logprobs=TensorData(np.zeros(2 * (prompt - 1)), "float32", [prompt - 1, 2]),
        prompt_alt_tokens=PromptAltTokens(
            TensorData(np.arange(prompt - 1), "int64", [prompt - 1, 1]),
            TensorData(np.zeros(prompt - 1), "float32", [prompt - 1, 1]),
        ),
        prompt_cache_hit_tokens=draw(st.integers(0, 100)),
    )


@given(sample_responses())
def test_sample_responses_round_trip(response: SampleResponse) -> None:
    decoded = codec.decode_sample_response(codec.encode_sample_response(response))
    assert decoded.sequences == response.sequences
    assert decoded.prompt_logprobs == response.prompt_logprobs
    assert decoded.topk_prompt_logprobs == response.topk_prompt_logprobs
    assert decoded.target_prompt_logprobs == response.target_prompt_logprobs
    assert decoded.prompt_alt_tokens == response.prompt_alt_tokens
    assert decoded.prompt_cache_hit_tokens == response.prompt_cache_hit_tokens


def test_field_numbers_are_those_of_the_official_messages() -> None:
    """Both descriptors are imported in one process, and each of our messages has the other's field numbers."""
    from tinker.proto import tinker_public_pb2 as official  # pyright: ignore[reportMissingImports]

    assert tinker.__version__ == "0.38.0"
    for name, ours in pb.DESCRIPTOR.message_types_by_name.items():
        theirs = official.DESCRIPTOR.message_types_by_name[name]
        assert {f.name: (f.number, f.type) for f in ours.fields} == {
            f.name: (f.number, f.type) for f in theirs.fields if f.name in ours.fields_by_name
        }
        assert set(ours.fields_by_name) == set(theirs.fields_by_name)


def test_bfloat16_outputs_widen() -> None:
    message = pb.ForwardBackwardOutput()
    record = message.loss_fn_outputs.add(num_datums=1)
    record.fields["logprobs"].dtype = pb.BFLOAT16
    record.fields["logprobs"].data = np.asarray([0x3FC0, 0xC000], "<u2").tobytes()
    record.fields["logprobs"].offsets = np.asarray([0, 4], "<i8").tobytes()
    decoded = codec.decode_forward_backward_output(message.SerializeToString())
    assert decoded.loss_fn_outputs[0]["logprobs"].tolist() == [1.5, -2.0]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_parsed_but_never_crash(body: bytes) -> None:
    try:
        codec.decode_forward_backward_request(body)
    except UserError as error:
        assert "expected" in error.message


@given(st.lists(datums(), min_size=1, max_size=2), st.data())
def test_truncated_requests_are_refused_or_parsed_but_never_crash(data: list[Datum], draw: st.DataObject) -> None:
    body = codec.encode_forward_backward_request("m", 1, data, "cross_entropy")
    cut = draw.draw(st.integers(0, len(body) - 1))
    try:
        codec.decode_forward_backward_request(body[:cut])
    except UserError as error:
        assert "expected" in error.message


def test_an_image_chunk_is_refused_by_name() -> None:
    request = pb.ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="cross_entropy")
    request.data.add().model_input.add().image.format = "png"
    with pytest.raises(UserError, match=r"data\[0\]\.model_input: got 'image', expected encoded_text"):
        codec.decode_forward_backward_request(request.SerializeToString())
