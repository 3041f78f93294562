"""Streams: seeded shuffle in a buffer, batches by number, passes, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.formats import byte_tokenizer
from tests.support.examples import examples
from tinsmith.cookbook.batches.stream_plan import StreamPlan
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.supervised import Batches, RowStream, split_held_out
from tinsmith.types.errors import UserError

TOKENIZER = byte_tokenizer("llama", "llama3")
RENDERER = get_renderer("llama3", TOKENIZER)


def stream(count: int, **options: Any) -> RowStream:
    def start() -> Iterator[Row]:
        return ({"text": f"row {i}"} for i in range(count))

    return RowStream(start, **options)


def said(found: tuple[int, list[tuple[str, Row]]]) -> list[str]:
    return [row["text"] for _, row in found[1]]


@examples(60)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 8),
    buffer=st.integers(1, 50),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_a_resumed_stream_repeats_no_batch_and_skips_none(
    count: int, batch_size: int, buffer: int, drop_last: bool, data: st.DataObject
) -> None:
    def plan() -> StreamPlan:
        return StreamPlan(stream(count, shuffle_buffer=buffer), batch_size, drop_last)

    if drop_last and count < batch_size:
        with pytest.raises(UserError, match=f"expected a stream of at least {batch_size} rows"):
            plan().get(0)
        return
    per_pass = count // batch_size if drop_last else -(-count // batch_size)
    whole = plan()
    found = [whole.get(step) for step in range(2 * per_pass)]
    for number in (0, 1):
        one = found[number * per_pass : (number + 1) * per_pass]
        assert {e for e, _ in one} == {number}
        visited = [text for batch in one for text in said(batch)]
        assert len(visited) == len(set(visited)) == (per_pass * batch_size if drop_last else count)
    resumed = plan()
    step = data.draw(st.integers(0, 2 * per_pass - 1))
    assert [resumed.get(i) for i in range(step, 2 * per_pass)] == found[step:]
    back = data.draw(st.integers(0, step))
    assert resumed.get(back) == found[back]


def test_rows_are_shuffled_within_the_buffer_and_not_beyond() -> None:
    plan = StreamPlan(stream(1000, shuffle_buffer=50), 1000, drop_last=True)
    numbers = [int(text.split()[1]) for text in said(plan.get(0))]
    assert sorted(numbers) == list(range(1000))
    assert numbers != sorted(numbers)
    assert all(number <= place + 50 for place, number in enumerate(numbers))
    assert said(plan.get(0)) != said(plan.get(1))
    plain = StreamPlan(stream(1000, shuffle_buffer=1), 1000, drop_last=True)
    assert [int(text.split()[1]) for text in said(plain.get(0))] == list(range(1000))


def test_a_stream_reads_no_more_than_its_buffer_and_batch() -> None:
    read = 0

    def start() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield {"text": f"row {read}"}

    batches = Batches(RowStream(start, shuffle_buffer=10), RENDERER, TOKENIZER, batch_size=4)
    assert len(batches.get(0).datums) == 4
    assert read == 14
    assert (batches.per_epoch, batches.left_out) == (None, None)


@pytest.mark.row(58)
def test_a_data_set_of_the_hub_that_is_streamed() -> None:
    found = datasets.Dataset.from_list([{"text": f"row {i}"} for i in range(20)]).to_iterable_dataset()
    batches = Batches(RowStream(lambda: found, name="some/one"), RENDERER, TOKENIZER, batch_size=5)
    assert sorted(row["text"] for i in range(4) for row in batches.get(i).rows) == sorted(f"row {i}" for i in range(20))
    assert batches.get(4).epoch == 1


def test_the_length_of_a_run_on_a_stream_has_to_be_said() -> None:
    batches = Batches(stream(8), RENDERER, TOKENIZER, batch_size=4)
    with pytest.raises(UserError, match="max_steps: got None, expected a number of steps: the rows are a stream"):
        batches.total_steps()
    with pytest.raises(UserError, match="epochs: got 3, expected max_steps in its place: the rows are a stream, which"):
        batches.total_steps(epochs=3)
    assert batches.total_steps(epochs=3, max_steps=7) == 7


def test_held_out_rows_of_a_stream_are_its_first_ones() -> None:
    train, kept = split_held_out(stream(10, shuffle_buffer=3), 4)
    assert kept == [{"text": f"row {i}"} for i in range(4)]
    assert isinstance(train, RowStream)
    assert sorted(row["text"] for _, row in train.epoch(0)) == [f"row {i}" for i in range(4, 10)]
    with pytest.raises(UserError, match=r"held_out: got 0.1, expected a number of rows: the rows are a stream"):
        split_held_out(stream(10), 0.1)
    with pytest.raises(UserError, match="held_out: got 10, expected fewer than the 10 rows of stream"):
        split_held_out(stream(10), 10)


def test_bad_rows_and_buffers_are_refused() -> None:
    broken = RowStream(lambda: iter([{"text": "fine"}, {"text": 3}]), name="mine")
    with pytest.raises(UserError, match="mine, row 1: text: got 3, expected a text that is not empty"):
        list(broken.epoch(0))
    with pytest.raises(UserError, match="shuffle_buffer: got 0, expected at least 1 row"):
        stream(3, shuffle_buffer=0)
