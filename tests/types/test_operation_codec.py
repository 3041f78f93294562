"""Operations survive the way to another process, and what cannot be read whole is refused."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.types.engine_messages.operation_codec import (
    FRAME_VERSION,
    decode_work,
    operation_from_frame,
    operation_to_frame,
)
from tinsmith.types.engine_messages.operations import Operation, OpKind, OptimStep, Sample, Work
from tinsmith.types.engine_messages.strict_fields import to_fields
from tinsmith.types.params import AdamParams, LoraConfig

# Seeds are 64-bit, as requests are checked to have them; msgpack has no larger whole numbers.
st.register_type_strategy(
    LoraConfig, st.builds(LoraConfig, rank=st.integers(1, 256), seed=st.none() | st.integers(-(2**63), 2**63 - 1))
)
st.register_type_strategy(AdamParams, st.builds(AdamParams, **dict.fromkeys(AdamParams.model_fields, st.floats(0, 1))))

works = st.one_of([st.from_type(cls) for cls in get_args(Work)])
operations = st.builds(
    Operation,
    request_id=st.text(),
    work=works,
    base_model=st.text(),
    model_id=st.none() | st.text(),
    seq_id=st.none() | st.integers(1, 2**62),
    body=st.none() | st.binary(),
    body_path=st.none() | st.text(),
    replay=st.booleans(),
)


def test_every_kind_has_one_class() -> None:
    assert sorted(cls.kind for cls in get_args(Work)) == sorted(OpKind)


@given(operations)
def test_a_frame_holds_the_whole_operation(op: Operation) -> None:
    frame = msgpack.unpackb(msgpack.packb(operation_to_frame(op)))
    assert operation_from_frame(frame) == op


@given(works)
def test_fields_that_a_kind_does_not_have_are_refused(work: Work) -> None:
    fields = to_fields(work)
    assert decode_work(work.kind, fields) == work
    with pytest.raises(
        ValueError, match=rf"^{work.kind}\.surprise: got 1, expected the fields of {type(work).__name__}"
    ):
        decode_work(work.kind, fields | {"surprise": 1})


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (OpKind.OPTIM_STEP, {}, "optim_step.adam: got nothing, expected the fields of OptimStep"),
        (OpKind.SAVE_STATE, {"folder": 3}, "save_state.folder: got 3, expected"),
        (OpKind.OPTIM_STEP, {"adam": {"learning_rate": 1.0, "momentum": 0.9}}, "optim_step.adam.momentum: got 0.9"),
        (OpKind.SAMPLE, None, "sample: got None"),
    ],
)
def test_what_is_wrong_is_named(kind: OpKind, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        decode_work(kind, fields)


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_a_frame_of_another_version_is_refused(version: object) -> None:
    frame = operation_to_frame(Operation("r", Sample("s"), "base"))
    with pytest.raises(ValueError, match=f"version: got {version!r}, expected {FRAME_VERSION}"):
        operation_from_frame(frame | {"version": version})
    with pytest.raises(ValueError, match="version: got None"):
        operation_from_frame({name: value for name, value in frame.items() if name != "version"})


def test_an_operation_without_a_body_says_which_it_is() -> None:
    with pytest.raises(ValueError, match=r"operation r \(optim_step\) has no body"):
        Operation("r", OptimStep(AdamParams()), "base").read_body()
