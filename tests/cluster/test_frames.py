"""Frames survive any cutting of the stream, and refuse what is too large, torn or foreign."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.cluster.frames import FrameDecoder, FrameError, encode_frame
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operation_codec import (
    event_from_frame,
    event_to_frame,
    operation_from_frame,
    operation_to_frame,
)
from tinsmith.types.engine_messages.operations import Operation, Sample
from tinsmith.types.errors import RequestErrorCategory

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
messages = st.dictionaries(st.text(), values, max_size=4)


@given(st.lists(messages, max_size=6), st.lists(st.integers(1, 40), max_size=60))
def test_messages_survive_any_cutting(sent: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, sent))
    decoder, received, start = FrameDecoder(), [], 0
    for cut in cuts:
        received += decoder.feed(stream[start : start + cut])
        start += cut
    received += decoder.feed(stream[start:])
    decoder.finish()
    assert received == sent


@given(messages, st.data())
def test_a_stream_that_ends_within_a_frame(message: dict[str, object], data: st.DataObject) -> None:
    frame = encode_frame(message)
    decoder = FrameDecoder()
    assert decoder.feed(frame + frame[: data.draw(st.integers(1, len(frame) - 1))]) == [message]
    with pytest.raises(FrameError, match="expected a whole frame"):
        decoder.finish()


@given(st.integers(0, 200))
def test_the_limit_holds_on_both_sides(size: int) -> None:
    limit = 100
    message = {"x": b"." * size}
    if len(msgpack.packb(message)) <= limit:
        assert FrameDecoder(limit).feed(encode_frame(message, limit)) == [message]
        return
    with pytest.raises(FrameError, match="expected at most 100"):
        encode_frame(message, limit)
    with pytest.raises(FrameError, match="expected at most 100"):
        FrameDecoder(limit).feed(encode_frame(message)[:4])


@given(st.binary(min_size=1, max_size=60))
def test_foreign_bytes_never_do_worse_than_a_frame_error(data: bytes) -> None:
    decoder = FrameDecoder(limit=1000)
    try:
        for message in decoder.feed(struct.pack(">I", len(data)) + data):
            assert isinstance(message, dict)
        decoder.finish()
    except FrameError:
        pass


def test_operations_and_events_pass_unchanged() -> None:
    op = Operation("id", Sample("s"), "base", body=b"\x00\xff")
    failure = Failure("id", "rank: got 0, expected 1 to 256", RequestErrorCategory.USER)
    result = Result("id", b"\x00" * 10, "application/x-protobuf")
    decoder = FrameDecoder()
    first, *events = decoder.feed(
        b"".join(map(encode_frame, [operation_to_frame(op), event_to_frame(failure), event_to_frame(result)]))
    )
    assert operation_from_frame(first) == op
    assert [event_from_frame(event) for event in events] == [failure, result]
