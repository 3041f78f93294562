"""The service's door and the engine agree on every sampling request: what one refuses so does the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import SHAPE, checkpoint
from tests.support.engines import load_engine
from tests.support.sampling import sample
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob
from tinsmith.scheduler.samples.sample_jobs import sample_job
from tinsmith.server.handlers.sampling import check_request
from tinsmith.types.codec import decode_sample_response, encode_sample_response
from tinsmith.types.engine_messages.operations import Operation, Sample
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.requests import SampleRequest
from tinsmith.types.sample_inputs import SampleInputs, read_sample_inputs

MAX_SAMPLES, MAX_TOPK, MAX_STOPS = 3, 4, 2
LAST_ID = SHAPE.vocab_size - 1

# Values that are sound whatever the rest of a request is, and values that never are.
SOUND: dict[str, list[Any]] = {
    "num_samples": [1, 2, MAX_SAMPLES],
    "max_tokens": [1, 2, 3],
    "temperature": [0.0, 5e-324, 0.5, 1.0, 1.7e308],
    "top_p": [1e-300, 0.5, 1.0],
    "top_k": [-1, 1, 5, SHAPE.vocab_size, SHAPE.vocab_size + 1, 2**63 - 1],
    "seed": [None, 0, -(2**63), 2**64 - 1],
    "stop": [None, [], "a", ["a", "b"], [5], [0, LAST_ID]],
    "topk_prompt_logprobs": [0, 1, MAX_TOPK],
    "topk_sample_logprobs": [0, 1, MAX_TOPK],
    "prompt_alt_tokens_k": [0, 1, MAX_TOPK],
}
ODD: dict[str, list[Any]] = {
    "num_samples": [-1, 0, MAX_SAMPLES + 1],
    "max_tokens": [-1, 0, 2**63],
    "temperature": [-0.1, float("nan"), float("inf")],
    "top_p": [-0.1, 0.0, 1.1, float("nan")],
    "top_k": [-2, 0, 2**63],
    "seed": [-(2**63) - 1, 2**64],
    "stop": ["", ["a", ""], ["a", 1], [1, 2, 3], [LAST_ID + 1], [-1]],
    "topk_prompt_logprobs": [-1, MAX_TOPK + 1],
    "topk_sample_logprobs": [-1, MAX_TOPK + 1],
    "prompt_alt_tokens_k": [-1, MAX_TOPK + 1],
    "prompt": [[], [1, LAST_ID + 1], [-1], [1] * SHAPE.context_length, [1] * (SHAPE.context_length + 1), [2**70]],
    "last_n": [-1, 0, "more", "without"],
    "targets": ["rows", "columns", "none", "flat", "low", "high", "float"],
}


FAULTS = [(name, value) for name, values in ODD.items() for value in values]


@st.composite
def bodies(draw: st.DrawFn, fault: str = "", value: Any = None) -> dict[str, Any]:
    """Bodies of requests in which nothing is wrong but the fault, where there is one."""
    chosen = {name: draw(st.sampled_from(values)) for name, values in SOUND.items()}
    length = draw(st.sampled_from([1, 1, 2, 3, 17, SHAPE.context_length - 1]))
    prompt = value if fault == "prompt" else [1 + i % LAST_ID for i in range(length)]
    if length > 17:
        chosen["max_tokens"] = draw(st.sampled_from([None, 1, 2**63 - 1]))  # the context has room for one
    if fault in chosen:
        chosen[fault] = value
    params = {n: chosen.pop(n) for n in ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop")}
    body = chosen | {
        "sampling_session_id": "s",
        "seq_id": 0,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt}]},
        "sampling_params": params,
        "prompt_logprobs": draw(st.sampled_from([None, False, True])),
    }
    if fault == "last_n" or draw(st.booleans()):
        most = max(1, len(prompt) - 1)
        sound = draw(st.integers(1, most))
        body["prompt_logprobs"] = value != "without"
        body["prompt_logprobs_last_n"] = (
            {"more": most + 1, -1: -1, 0: 0}.get(value, sound) if fault == "last_n" else sound
        )
    if fault == "targets" or draw(st.booleans()):
        kind = value if fault == "targets" else "sound"
        body["target_prompt_logprobs"] = draw(targets(max(0, len(prompt) - 1), kind))
    return body


@st.composite
def targets(draw: st.DrawFn, rows: int, kind: str) -> dict[str, Any]:
    """A tensor of ids for the rows of a prompt, with one fault unless the kind is sound."""
    if kind in ("low", "high"):
        rows = max(1, rows)  # so that there is a cell for the fault; a prompt of one token has one row too many
    rows += kind == "rows"
    columns = {"columns": MAX_TOPK + 1, "none": 0}.get(kind, draw(st.integers(1, MAX_TOPK)))
    data = [draw(st.integers(-1, LAST_ID))] * (rows * columns)
    if kind in ("low", "high"):
        data[-1] = -2 if kind == "low" else LAST_ID + 1
    shape = [rows * columns] if kind == "flat" else [rows, columns]
    if kind == "sound" and draw(st.booleans()):
        return {"data": data[:rows], "dtype": "int64", "shape": shape} | {
            "sparse_crow_indices": list(range(rows + 1)),
            "sparse_col_indices": [columns - 1] * rows,
        }
    return {"data": data, "dtype": "float32" if kind == "float" else "int64", "shape": shape}


@pytest.fixture(scope="module")
def engine() -> Engine:
    limits = {"max_samples": MAX_SAMPLES, "max_topk": MAX_TOPK, "max_stop_sequences": MAX_STOPS}
    engine = load_engine(checkpoint("qwen3"), **limits)
    engine.load_sampler("s", None)
    return engine


SCORED_ALONE = {
    "sampling_session_id": "s",
    "seq_id": 0,
    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [4]}]},
    "sampling_params": {"max_tokens": 1},
    "prompt_logprobs": True,
    "prompt_logprobs_last_n": 1,
}


@given(body=bodies())
@example(body=SCORED_ALONE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_door_accepts_is_computed(engine: Engine, body: dict[str, Any]) -> None:
    request = SampleRequest.model_validate(body)
    check_request(request, engine.info, engine.settings)
    op = Operation("j", Sample("s"), "base", body=orjson.dumps(request.wire()))
    response = sample(engine, sample_job(op, "s"))
    check_answer(read_sample_inputs(request), decode_sample_response(encode_sample_response(response)))


@pytest.mark.parametrize(("fault", "value"), FAULTS)
@given(data=st.data())
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_door_refuses_the_engine_refuses_in_the_same_words(
    engine: Engine, fault: str, value: Any, data: st.DataObject
) -> None:
    request = SampleRequest.model_validate(data.draw(bodies(fault, value)))
    asked = read_sample_inputs(request)
    with pytest.raises(UserError) as at_the_door:
        check_request(request, engine.info, engine.settings)
    seeded = asked.params.model_copy(update={"seed": asked.params.seed or 0})
    with pytest.raises(UserError) as at_the_engine:
        engine.sampler.add(SampleJob(request_id="j", sampler_id="s", **{**vars(asked), "params": seeded}))
    assert at_the_engine.value.message == at_the_door.value.message
    assert not engine.sampler.has_work


def check_answer(asked: SampleInputs, response: SampleResponse) -> None:
    """Whether everything that was asked for is there, in the shape that the protocol gives it."""
    length = len(asked.prompt)
    assert len(response.sequences) == asked.num_samples
    for sequence in response.sequences:
        assert 1 <= len(sequence.tokens) <= min(asked.params.max_tokens or 1, SHAPE.context_length - length)
        assert sequence.logprobs is not None
        assert np.isfinite(sequence.logprobs).all()
        assert (sequence.topk_logprobs is not None) == bool(asked.topk_sample_logprobs)
    if asked.prompt_logprobs:
        logprobs = response.prompt_logprobs
        assert logprobs is not None
        scored = min(length - 1, asked.prompt_logprobs_last_n or length)
        assert [lp is not None for lp in logprobs] == [False] * (length - scored) + [True] * scored
    if asked.target_prompt_logprobs is not None:
        assert response.target_prompt_logprobs is not None
        assert response.target_prompt_logprobs.shape == asked.target_prompt_logprobs.shape
    if asked.prompt_alt_tokens_k:
        assert response.prompt_alt_tokens is not None
        assert response.prompt_alt_tokens.tokens.shape == [length - 1, asked.prompt_alt_tokens_k]
