"""Rows that decoding appends to give what gathering blocks gives, whoever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import drain, make_job, random_prompt, run_all, samples
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.decoding import decode_rows
from tinsmith.engine.sampling.decoding.decode_rows import DecodePass, DecodeRows
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import LoraConfig


def make_engine(rows: bool, **options: object) -> Engine:
    engine = load_engine(checkpoint("qwen3"), dtype="float64", **options)  # pyright: ignore[reportArgumentType]
    engine.load_sampler("base", None)
    for seed, rank in enumerate((8, 3)):
        engine.create_model(f"m{rank}", LoraConfig(rank=rank))
        randomise_adapter(engine, f"m{rank}", seed)
        engine.snapshot(f"m{rank}", f"s{rank}")
    engine.sampler._stream = DecodeStream(engine.sampler.cache, in_rows=rows)
    return engine


def jobs(count: int, longest: int) -> list[SampleJob]:
    return [
        make_job(
            ("base", "s8", "s3")[i % 3],
            random_prompt(1 + 11 * i % longest, i),
            1 + i % 3,
            seed=i,
            # Ends one by one, so that rows become holes and newcomers fill them.
            max_tokens=3 + 7 * i % 31,
        )
        for i in range(count)
    ]


def answers(engine: Engine, work: list[SampleJob]) -> list[tuple[list[int], list[float]]]:
    return [(s.tokens, s.logprobs or []) for _, response in samples(engine, work) for s in response.sequences]


@pytest.mark.row(204)
@pytest.mark.parametrize("most_read", [1.0, 1.5, 100.0])
@pytest.mark.parametrize("settings", [{}, {"max_decode_batch": 6, "prefill_tokens": 24}, {"kv_cache_mb": 1}])
def test_rows_give_what_blocks_give(
    most_read: float, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_rows, "_MOST_READ", most_read)
    monkeypatch.setattr(decode_rows, "_FREE_KEYS", 0)
    work = jobs(14, 90)
    found, wanted = (answers(make_engine(rows, **settings), work) for rows in (True, False))
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]
    for (_, a), (_, b) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_a_step_appends_and_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(True)
    filled: list[int] = []
    monkeypatch.setattr(
        DecodeRows,
        "_fill",
        lambda self, rows, tables, fill=DecodeRows._fill: (filled.append(len(rows)), fill(self, rows, tables)),
    )
    answers(engine, [make_job("s8", random_prompt(20, 0), 4, max_tokens=30)])
    assert filled == [4]
    # Nor where others end: who goes on has its row as it left it.
    filled.clear()
    answers(engine, [make_job("s8", random_prompt(20, n), 2, max_tokens=10 + 20 * n) for n in range(2)])
    assert filled == [4]


def test_a_hole_holds_nothing_of_a_sequence_that_diverged() -> None:
    engine = make_engine(True)
    engine.create_model("bad", LoraConfig(rank=8))
    engine.adapters.get("bad").master.fill_(torch.nan)
    engine.snapshot("bad", "bad")
    long = make_job("s8", random_prompt(30, 0), 2, max_tokens=60)
    alone = run_all(make_engine(True), [long])[long.request_id]
    bad = make_job("bad", random_prompt(30, 1), max_tokens=60)
    late = make_job("s3", random_prompt(5, 2), max_tokens=20)
    both = run_all(engine, [long, bad, late])
    assert isinstance(both[bad.request_id], Exception)
    assert isinstance(alone, SampleResponse)
    beside, other = both[long.request_id], both[late.request_id]
    assert isinstance(beside, SampleResponse)
    assert isinstance(other, SampleResponse)
    assert [s.tokens for s in beside.sequences] == [s.tokens for s in alone.sequences]


def test_rows_are_given_up_when_nothing_runs_or_they_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(True)
    dealt: list[DecodeRows] = []
    prepare = DecodeRows.prepare

    def watched(self: DecodeRows, *args: object) -> DecodePass | None:
        dealt.append(self)
        return prepare(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(DecodeRows, "prepare", watched)
    answers(engine, jobs(4, 30))
    assert dealt
    rows = engine.sampler._stream._rows
    assert rows is not None
    assert not rows._keys
    dealt.clear()
    small = make_engine(True, kv_cache_mb=1)
    # 128 tokens of room for each of as many sequences as the cache holds would be more than half of it.
    answers(small, [make_job("base", random_prompt(60, 1), 40, max_tokens=4)])
    assert dealt
    assert not any(rows._keys for rows in dealt)


@pytest.mark.parametrize("count", [1, 3])
def test_a_sequence_that_gave_way_and_came_back_goes_on_as_if_it_had_not(count: int) -> None:
    engine, job = make_engine(True), make_job("s8", random_prompt(20, 0), count, seed=3, max_tokens=40)
    alone = run_all(make_engine(True), [job])[job.request_id]
    engine.sampler.add(job)
    for step in range(30):
        engine.sampler.step()
        if step % 7 == 3:
            # Its blocks are others when it comes back.
            engine.sampler.schedule._preempt(engine.sampler.schedule.running[0])
    both = drain(engine)[job.request_id]
    assert engine.sampler.schedule.preemptions >= 3
    assert isinstance(both, SampleResponse)
    assert isinstance(alone, SampleResponse)
    assert [s.tokens for s in both.sequences] == [s.tokens for s in alone.sequences]
