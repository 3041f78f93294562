"""Cutting a batch and merging outputs: nothing is lost, nothing too large, and the merge equals the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.data import datum
from tinsmith.client.training.batch_requests import chunk_sizes, merge, split
from tinsmith.client.training.preference_pairs import check_datums
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import ForwardBackwardOutput
from tinsmith.types.tensor import TensorData

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@given(lengths, st.integers(1, 12), st.integers(1, 2000))
def test_chunks_are_whole_bounded_and_greedy(sizes: list[int], most: int, most_bytes: int) -> None:
    data = [datum(n, seed=i) for i, n in enumerate(sizes)]
    cut = chunk_sizes(data, "cross_entropy", most, most_bytes)
    parts = split(data, cut)
    assert [one for part in parts for one in part] == data
    for index, part in enumerate(parts):
        assert 1 <= len(part) <= most
        assert len(part) == 1 or sum(one.nbytes for one in part) <= most_bytes
        if index + 1 < len(parts):
            with_next = [*part, parts[index + 1][0]]
            assert len(with_next) > most or sum(one.nbytes for one in with_next) > most_bytes


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 1000))
def test_pairs_stay_together(pairs: int, most: int, most_bytes: int) -> None:
    data = [datum(3 + i, seed=i) for i in range(2 * pairs)]
    cut = chunk_sizes(data, "dpo", most, most_bytes)
    assert all(size % 2 == 0 for size in cut)
    assert sum(cut) == len(data)
    assert all(size <= max(2, most) for size in cut)


def test_an_odd_pair_batch_is_left_to_the_service() -> None:
    assert sum(chunk_sizes([datum() for _ in range(5)], "dpo", 2, 10**6)) == 5


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=6))
def test_merge_equals_the_whole(values: list[list[float]]) -> None:
    """Each datum is one value: sums, means, extremes of the parts are those of all."""

    def output(part: list[float]) -> ForwardBackwardOutput:
        metrics = {
            "loss:sum": sum(part),
            "x:mean": float(np.mean(part)),
            "x:min": min(part),
            "x:max": max(part),
            "x:slack": 0.0,
            "n:unique": float(len(part)),
            "x:nobody_knows": 1.0,
        }
        outputs = [{"logprobs": TensorData([v], "float32")} for v in part]
        return ForwardBackwardOutput("Label", outputs, metrics)

    merged = merge([output(part) for part in values])
    flat = [v for part in values for v in part]
    assert [o["logprobs"].data[0] for o in merged.loss_fn_outputs] == pytest.approx(flat, rel=1e-6)
    assert merged.metrics["loss:sum"] == pytest.approx(sum(flat), abs=1e-9)
    assert merged.metrics["x:mean"] == pytest.approx(float(np.mean(flat)), abs=1e-9)
    assert (merged.metrics["x:min"], merged.metrics["x:max"]) == (min(flat), max(flat))
    assert merged.metrics["n:unique"] == len(values[0])
    assert all(merged.metrics[f"n:unique_{i}"] == len(values[i]) for i in range(1, len(values)))
    assert "x:nobody_knows" not in merged.metrics


def test_batches_that_are_none() -> None:
    with pytest.raises(UserError, match="data: got 'no datums', expected at least one"):
        check_datums([])
    with pytest.raises(UserError, match=r"data\[1\]: got Ellipsis, expected a Datum"):
        check_datums([datum(), ...])  # type: ignore[list-item]
