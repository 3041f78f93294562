"""The same seed gives the same tokens, whatever else runs and however the work is cut."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.checkpoints import DENSE_FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import drain, make_job, random_prompt, samples
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob
from tinsmith.types.params import LoraConfig


def make_engine(family: str, **options: object) -> Engine:
    engine = load_engine(checkpoint(family), **options)  # pyright: ignore[reportArgumentType]
    engine.load_sampler("base", None)
    for seed, name in enumerate("ab"):
        engine.create_model(name, LoraConfig(rank=8 * (seed + 1)))
        randomise_adapter(engine, name, seed)
        engine.snapshot(name, name)
    return engine


def make_jobs(count: int, max_tokens: int) -> list[SampleJob]:
    """Jobs of all kinds; some share a prefix of their prompts."""
    prefix = random_prompt(40, 999)
    jobs = []
    for i in range(count):
        own = random_prompt(1 + 7 * i % 50, i)
        options = ({}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 10, "temperature": 1.3}, {"temperature": 0.0})
        prompt = prefix + own if i % 3 == 0 else own
        jobs.append(
            make_job(
                ("a", "base", "b")[i % 3],
                prompt,
                1 + i % 4,
                seed=i * 0x9E3779B97F4A7C15 % 2**64 - 2**63,
                max_tokens=max_tokens,
                **options[i % 5],
            )
        )
    return jobs


def tokens_of(engine: Engine, jobs: list[SampleJob]) -> dict[str, list[list[int]]]:
    return {job.request_id: [s.tokens for s in r.sequences] for job, r in samples(engine, jobs)}


def tokens_one_by_one(engine: Engine, jobs: list[SampleJob]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for job in jobs:
        found |= tokens_of(engine, [job])
    return found


def tokens_trickling(engine: Engine, jobs: list[SampleJob], chance: random.Random) -> dict[str, list[list[int]]]:
    """Add jobs at random moments among other work, some of it cancelled half-way."""
    found: dict[str, list[list[int]]] = {}
    noise: list[SampleJob] = []
    for job in jobs:
        engine.sampler.add(job)
        if chance.random() < 0.5:
            noise.append(make_job("b", random_prompt(30, chance.randrange(100)), 3, max_tokens=40, seed=5))
            engine.sampler.add(noise[-1])
        for _ in range(chance.randrange(5)):
            for request_id, result in engine.sampler.step():
                assert not isinstance(result, Exception)
                found[request_id] = [s.tokens for s in result.sequences]
        if noise and chance.random() < 0.3:
            engine.sampler.cancel(noise.pop(0).request_id)
    for request_id, result in drain(engine).items():
        assert not isinstance(result, Exception)
        found[request_id] = [s.tokens for s in result.sequences]
    return {job.request_id: found[job.request_id] for job in jobs}


@pytest.mark.row(209)
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[pytest.mark.slow] if one != "qwen3" else []) for one in DENSE_FAMILIES]
)
def test_alone_together_preempted_and_in_slices(family: str) -> None:
    jobs = make_jobs(12, 40)
    alone = tokens_one_by_one(make_engine(family), jobs)
    assert sum(len(t) for s in alone.values() for t in s) == 40 * 30
    together = make_engine(family)
    assert tokens_of(together, jobs) == alone
    # Once more, backwards, with every prompt in the cache.
    assert tokens_of(together, jobs[::-1]) == alone
    assert tokens_trickling(make_engine(family, prefill_tokens=16), jobs, random.Random(1)) == alone
    small = make_engine(family, kv_block_size=8, kv_cache_mb=1)
    small.sampler.schedule.blocks.num_blocks = 30
    assert tokens_of(small, jobs) == alone
    assert small.sampler.schedule.preemptions > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.row(209)
@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_a_hundred_thousand_tokens(family: str) -> None:
    jobs = make_jobs(400, 101)
    together = tokens_of(make_engine(family), jobs)
    assert sum(len(t) for s in together.values() for t in s) >= 100_000
    assert tokens_trickling(make_engine(family, prefill_tokens=64), jobs, random.Random(2)) == together
    small = make_engine(family, max_decode_batch=40)
    small.sampler.schedule.blocks.num_blocks = 150
    assert tokens_of(small, jobs[::-1]) == together
    assert small.sampler.schedule.preemptions > 50
    some = jobs[::9]
    assert tokens_one_by_one(make_engine(family), some) == {job.request_id: together[job.request_id] for job in some}


def test_a_request_whose_samples_enter_one_by_one_is_answered_as_if_all_entered_at_once() -> None:
    job = make_job("a", random_prompt(21, 3), 24, seed=7, max_tokens=6)
    whole, split = make_engine("qwen3"), make_engine("qwen3", max_decode_batch=5)
    assert tokens_of(split, [job]) == tokens_of(whole, [job])
    beside = [job, make_job("b", random_prompt(9, 4), 3, seed=8, max_tokens=6, owner="other")]
    assert tokens_of(split, beside) == tokens_of(whole, beside)


def test_another_seed_sample_or_position_draws_anew() -> None:
    engine = make_engine("llama")
    jobs = [make_job("a", [1, 2, 3], 4, seed=seed, max_tokens=30) for seed in (0, 1, -1, 2**63)]
    drawn = [tuple(s.tokens) for _, r in samples(engine, jobs) for s in r.sequences]
    assert len(set(drawn)) == 16


def test_seeds_are_64_bits_wide() -> None:
    engine = make_engine("llama")
    negative, unsigned = (make_job("a", [1, 2, 3], seed=seed, max_tokens=30) for seed in (-5, 2**64 - 5))
    found = tokens_of(engine, [negative, unsigned])
    assert found[negative.request_id] == found[unsigned.request_id]


def test_a_completion_can_be_resumed() -> None:
    # Draws go by the position in the whole sequence, so a prompt that ends inside a completion continues it.
    engine = make_engine("qwen3")
    job = make_job("b", [5, 6, 7], seed=9, max_tokens=40)
    (whole,) = tokens_of(engine, [job])[job.request_id]
    rest = replace(job, request_id="rest", prompt=job.prompt + whole[:15])
    assert tokens_of(engine, [rest])["rest"][0][:25] == whole[15:]
