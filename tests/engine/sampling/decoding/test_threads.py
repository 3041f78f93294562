"""Decoding on several threads gives what decoding on one gives, whoever comes and goes, and fails where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import make_job, random_prompt, run_all, samples
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.engine.sampling.sequence import Sequence
from tinsmith.engine.threads import THREADS
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import LoraConfig


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Operations are cut over three threads, whatever the load and the model's size."""
    before = torch.get_num_threads()
    monkeypatch.setattr(THREADS, "follow_load", lambda grain: None)
    yield
    torch.set_num_threads(before)


def make_engine(family: str = "qwen3", **options: Any) -> Engine:
    engine = load_engine(checkpoint(family), **({"dtype": "float64"} | options))
    torch.set_num_threads(3)
    engine.load_sampler("base", None)
    for seed, rank in enumerate((8, 3)):
        engine.create_model(f"m{rank}", LoraConfig(rank=rank))
        randomise_adapter(engine, f"m{rank}", seed)
        engine.snapshot(f"m{rank}", f"s{rank}")
    return engine


def jobs() -> list[SampleJob]:
    # They end one by one, and many begin late.
    return [
        make_job(
            ("base", "s8", "s3")[i % 3],
            random_prompt(1 + 11 * i % 60, i),
            1 + i % 3,
            seed=i,
            max_tokens=3 + 7 * i % 31,
            temperature=(1.0, 0.0, 0.7)[i % 3],
        )
        for i in range(14)
    ]


def answers(engine: Engine, work: list[SampleJob]) -> list[tuple[list[int], list[float]]]:
    return [(s.tokens, s.logprobs or []) for _, response in samples(engine, work) for s in response.sequences]


@pytest.mark.row(204)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize(
    "settings", [{}, {"max_decode_batch": 7, "prefill_tokens": 24}, {"kv_cache_mb": 1, "kv_block_size": 4}]
)
def test_three_threads_give_what_one_gives(family: str, settings: dict[str, int], three_threads: None) -> None:
    engine = make_engine(family, **settings)
    found = answers(engine, jobs())
    torch.set_num_threads(1)
    wanted = answers(engine, jobs())
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]
    for (_, a), (_, b) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_a_step_that_fails_ends_its_requests_and_the_next_one_starts_anew(
    three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    alone = answers(engine, [make_job("s3", random_prompt(5, 1), 3, max_tokens=9)])
    step = DecodeStream.next
    failed: list[int] = []

    def fail_once(self: DecodeStream, sequences: list[Sequence]) -> Any:
        if not failed and any(len(s.tokens) > 20 for s in sequences):
            failed.append(1)
            raise RuntimeError("broken")
        return step(self, sequences)

    monkeypatch.setattr(DecodeStream, "next", fail_once)
    guilty = make_job("s8", random_prompt(12, 0), 9, max_tokens=40)
    assert isinstance(run_all(engine, [guilty])[guilty.request_id], RuntimeError)
    # The next one finds nothing of those that failed.
    assert answers(engine, [make_job("s3", random_prompt(5, 1), 3, max_tokens=9)]) == alone


def test_weights_that_diverged_fail_alone(three_threads: None) -> None:
    engine = make_engine()
    engine.create_model("bad", LoraConfig(rank=8))
    engine.adapters.get("bad").master.fill_(torch.nan)
    engine.snapshot("bad", "bad")
    good = make_job("s8", random_prompt(30, 0), 6, max_tokens=20)
    bad = make_job("bad", random_prompt(30, 1), 3, max_tokens=20)
    both = run_all(engine, [good, bad])
    assert isinstance(both[bad.request_id], Exception)
    assert isinstance(both[good.request_id], SampleResponse)
