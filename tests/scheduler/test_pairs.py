"""Pairs in passes: placed whole, cut and failed whole, and the reference that a run goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes.fake_engine import BAD_ROW, FakeEngine
from tests.support.operations import Driven, create, forward_backward, optim, preferences
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.errors import UserError


def firsts(rows: Sequence[TrainRow]) -> list[int]:
    return [row.datum.model_input.to_ints()[0] for row in rows]


def kept(engine: FakeEngine, model_id: str = "m") -> list[str]:
    return [entry[1] for entry in engine.models[model_id].diary if entry[0] == "keep_reference"]


@pytest.mark.row(90)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(16, 40),
)
def test_a_pass_holds_pairs_whole_and_keeps_to_its_budget(requests: list[tuple[bool, int, int]], budget: int) -> None:
    engine = FakeEngine(max_tokens_per_pass=budget)
    driven = Driven(engine, clock=engine.clock)
    names = [f"m{i}" for i in range(len(requests))]
    driven.submit(*(create(name) for name in names))
    for name, (paired, count, length) in zip(names, requests, strict=True):
        rows = range(2 * count)
        driven.submit((preferences if paired else forward_backward)(name, 1, list(rows), length))
    driven.run()
    for rows in engine.passes:
        for name, (paired, _, _) in zip(names, requests, strict=True):
            found = firsts([row for row in rows if row.model_id == name])
            assert found == sorted(found)
            if paired:
                assert found[0::2] == [n for n in found if n % 2 == 0]
                assert found[1::2] == [n + 1 for n in found[0::2]]
        tokens = sum(row.datum.model_input.length for row in rows)
        assert tokens <= budget or len(rows) <= 2
    for name, (_, count, _) in zip(names, requests, strict=True):
        assert engine.models[name].gradients == list(range(2 * count))


@pytest.mark.row(36, 90)
def test_what_is_wrong_with_a_pair_is_told_with_its_place_in_the_request() -> None:
    class Choosy(FakeEngine):
        def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
            outputs = super().train_rows(rows)
            for i in range(0, len(rows), 2):
                if firsts(rows)[i] == 4:
                    outputs[i] = outputs[i + 1] = UserError("data[1]: got another prompt, expected that of data[0]")
            return outputs

    engine = Choosy()
    driven = Driven(engine)
    bad, step = preferences("m", 1, [0, 1, 2, 3, 4, 5, 6, 7]), optim("m", 2)
    driven.run(create("m"), bad, step)
    assert driven.failure(bad).message == "data[5]: got another prompt, expected that of data[4]"
    assert driven.failure(step)


def test_memory_that_runs_out_cuts_between_pairs() -> None:
    class Small(FakeEngine):
        def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
            if len(rows) > 2:
                raise MemoryError("too many rows")
            return super().train_rows(rows)

    engine = Small(max_tokens_per_pass=100)
    driven = Driven(engine)
    op = preferences("m", 1, list(range(10)))
    driven.run(create("m"), op)
    assert [firsts(rows) for rows in engine.passes] == [[i, i + 1] for i in range(0, 10, 2)]
    assert len(driven.output(op).loss_fn_outputs) == 10


@pytest.mark.row(95)
def test_metrics_of_pairs_are_means_over_all_passes() -> None:
    class Telling(FakeEngine):
        def _row(self, row: TrainRow) -> RowOutput | Exception:
            found = super()._row(row)
            assert isinstance(found, RowOutput)
            first = row.datum.model_input.to_ints()[0]
            ref = np.full(2, first, np.float32)
            return replace(found, metrics={"margin:mean": float(first // 2)}, ref_logprobs=ref)

    engine = Telling(max_tokens_per_pass=16)
    driven = Driven(engine)
    op = preferences("m", 1, list(range(10)))
    driven.run(create("m"), op)
    assert len(engine.passes) == 2
    output = driven.output(op)
    assert output.metrics["margin:mean"] == pytest.approx(2.0)
    assert [one["ref_logprobs"].tolist() for one in output.loss_fn_outputs] == [[float(i)] * 2 for i in range(10)]


@pytest.mark.row(90)
def test_a_run_goes_on_with_what_its_last_good_pass_named() -> None:
    engine = FakeEngine()
    driven = Driven(engine)
    named = preferences("m", 1, [0, 1], reference="one")
    failed = preferences("m", 2, [BAD_ROW, 1], reference="two")
    looked = preferences("m", 3, [0, 1], forward_only=True, reference="three")
    driven.run(create("m"), named, failed, looked, preferences("m", 4, [0, 1]), preferences("m", 5, [0, 1]))
    assert kept(engine) == ["one"]
    # Each row says what its request named; what the run keeps is the engine's to know.
    assert [rows[0].reference for rows in engine.passes] == ["one", "two", "three", None, None]
    driven.run(preferences("m", 6, [0, 1], reference="base"))
    assert kept(engine) == ["one", "base"]


@pytest.mark.row(90)
def test_a_replay_keeps_what_its_first_life_kept() -> None:
    engine = FakeEngine()
    driven = Driven(engine)
    driven.run(
        create("m", replay=True),
        preferences("m", 1, [0, 1], reference="one", replay=True),
        preferences("m", 2, [0, 1], forward_only=True, reference="two", replay=True),
        preferences("m", 3, [0, 1]),
    )
    assert kept(engine) == ["one"]
    assert len(engine.passes) == 2
