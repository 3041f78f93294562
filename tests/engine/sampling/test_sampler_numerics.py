"""Sampled, prompt, top-k and target logprobs equal the learner's and those of plain transformers with PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkpoints import FAMILIES, SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.peft_reference import load_reference, reference_logprobs
from tests.support.sampling import learner_logprobs, make_job, random_prompt, sample, samples, shaped
from tinsmith.engine.engine import Engine
from tinsmith.settings import Settings
from tinsmith.types.params import LoraConfig

ADAPTERS = {"a": LoraConfig(rank=8), "b": LoraConfig(rank=3, train_mlp=False)}


def make_engine(family: str, **options: object) -> Engine:
    """An engine with two trained-looking adapters, their snapshots "a" and "b", and the base as sampler "base"."""
    engine = load_engine(checkpoint(family), **options)  # pyright: ignore[reportArgumentType]
    engine.load_sampler("base", None)
    for seed, (name, lora) in enumerate(ADAPTERS.items()):
        engine.create_model(name, lora)
        randomise_adapter(engine, name, seed)
        engine.snapshot(name, name)
    return engine


@pytest.mark.row(2, 204, 208)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_learner_recomputes_what_was_sampled(family: str) -> None:
    # Prompts shorter and longer than a block and than a prefill slice, mixed adapters in one batch.
    engine = make_engine(family, prefill_tokens=48)
    jobs = [
        make_job("ab"[i % 2], random_prompt(n, i), 2, seed=i, max_tokens=60, prompt_logprobs=True)
        for i, n in enumerate((1, 5, 16, 17, 40, 70, 100, 33))
    ]
    sampled, learned, prompts = [], [], []
    for job, response in samples(engine, jobs):
        for sequence in response.sequences:
            full = learner_logprobs(engine, job.sampler_id, job.prompt + sequence.tokens)
            sampled += sequence.logprobs or []
            learned += full[len(job.prompt) - 1 :].tolist()
            assert response.prompt_logprobs_np is not None
            assert np.isnan(response.prompt_logprobs_np[0])
            prompts.append(np.abs(response.prompt_logprobs_np[1:] - full[: len(job.prompt) - 1]))
    assert len(sampled) == len(learned) == 16 * 60
    difference = np.array(sampled) - np.array(learned)
    assert np.abs(difference).max() <= 1e-5
    assert max(p.max(initial=0) for p in prompts) <= 1e-5
    # KL(sampler || learner) by its plain estimator and by one that cannot cancel (Schulman 2020, "k3").
    assert abs(difference.mean()) < 1e-6
    assert np.mean(np.expm1(-difference) + difference) < 1e-6


@pytest.mark.row(204)
@pytest.mark.parametrize("family", FAMILIES)
def test_float64_is_float64_throughout(family: str) -> None:
    engine = make_engine(family, dtype="float64")
    job = make_job("a", random_prompt(20, 0), max_tokens=30)
    (sequence,) = sample(engine, job).sequences
    full = learner_logprobs(engine, "a", job.prompt + sequence.tokens)
    assert full.dtype == np.float64
    np.testing.assert_allclose(sequence.logprobs, full[19:], atol=1e-12)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif("not torch.cuda.is_available()")])],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_close_to_the_learner(family: str, device: str) -> None:
    engine = Engine.load(family, str(checkpoint(family)), device, "bfloat16", Settings(kv_cache_mb=8, adapter_mb=64))
    for seed, name in enumerate("ab"):
        engine.create_model(name, ADAPTERS[name])
        randomise_adapter(engine, name, seed)
        engine.snapshot(name, name)
    jobs = [make_job("ab"[i % 2], random_prompt(1 + 17 * i, i), 2, seed=i, max_tokens=40) for i in range(6)]
    differences: list[float] = []
    for job, response in samples(engine, jobs):
        for sequence in response.sequences:
            full = learner_logprobs(engine, job.sampler_id, job.prompt + sequence.tokens)
            differences += (np.array(sequence.logprobs) - full[len(job.prompt) - 1 :]).tolist()
    # Rounding to eight bits between layers: a few per cent at worst, a thousandth on average.
    assert np.abs(differences).max() < 0.1
    assert np.abs(differences).mean() < 5e-3


@pytest.mark.row(2, 204)
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_transformers_with_peft(family: str, tmp_path: Path) -> None:
    engine = make_engine(family)
    shapings = [(1.0, -1, 1.0), (0.6, 20, 1.0), (1.4, -1, 0.7), (0.8, 50, 0.9), (0.0, -1, 1.0)]
    jobs = [
        make_job(
            name,
            random_prompt(21 + i, i),
            seed=i,
            temperature=t,
            top_k=k,
            top_p=p,
            max_tokens=24,
            topk_sample_logprobs=6,
        )
        for i, (t, k, p) in enumerate(shapings)
        for name in "ab"
    ]
    results = list(samples(engine, jobs))
    for name in "ab":
        engine.save_sampler(name, tmp_path / name)
        own = [(job, r.sequences[0]) for job, r in results if job.sampler_id == name]
        reference = load_reference(checkpoint(family), tmp_path / name, torch.float32, trainable=False)
        with torch.no_grad():
            rows = reference_logprobs(reference, [job.prompt + s.tokens for job, s in own])
        for (job, sequence), logprobs in zip(own, rows, strict=True):
            p = job.params
            for i, token in enumerate(sequence.tokens):
                wanted = shaped(logprobs[len(job.prompt) - 1 + i], p.temperature, p.top_k, p.top_p)
                assert sequence.logprobs is not None
                assert sequence.logprobs[i] == pytest.approx(wanted[token].item(), abs=2e-5)
                table = sequence.topk_logprobs
                assert table is not None
                assert table[i] is not None
                values, ids = wanted.topk(6)
                found = [(t, lp) for t, lp in zip(ids.tolist(), values.tolist(), strict=True) if lp > -torch.inf]
                assert [t for t, _ in table[i] or []] == [t for t, _ in found]
                assert [lp for _, lp in table[i] or []] == pytest.approx([lp for _, lp in found], abs=2e-5)
                if p.temperature == 0:
                    assert token == found[0][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str, tmp_path: Path) -> None:
    engine = make_engine(family)
    engine.save_sampler("a", tmp_path)
    reference = load_reference(checkpoint(family), tmp_path, torch.float32, trainable=False)
    prompt = random_prompt(19, 5)
    (sequence,) = sample(engine, make_job("a", prompt, temperature=0.0, max_tokens=50)).sequences
    out = reference.generate(
        input_ids=torch.tensor([prompt]), do_sample=False, min_new_tokens=50, max_new_tokens=50, eos_token_id=None
    )
    assert sequence.tokens == out[0, 19:].tolist()


@pytest.mark.row(204)
@pytest.mark.parametrize("last_n", [None, 1, 7, 36])
def test_prompt_scores(last_n: int | None, tmp_path: Path) -> None:
    engine = make_engine("qwen3", prefill_tokens=16)
    engine.save_sampler("a", tmp_path)
    reference = load_reference(checkpoint("qwen3"), tmp_path, torch.float32, trainable=False)
    prompt = random_prompt(37, 3)
    targets = np.full((36, 2), -1, np.int64)
    targets[5] = [3, -1]
    targets[35] = [319, 0]
    # The second run finds the prompt in the cache and must score it all the same.
    responses = [
        sample(
            engine,
            make_job(
                "a",
                prompt,
                max_tokens=1,
                prompt_logprobs=True,
                topk_prompt_logprobs=4,
                prompt_logprobs_last_n=last_n,
                target_prompt_logprobs=targets,
            ),
        )
        for _ in range(2)
    ]
    with torch.no_grad():
        (wanted,) = reference_logprobs(reference, [prompt])
    first = 37 - (last_n or 36)
    for response in responses:
        assert response.prompt_logprobs_np is not None
        assert np.isnan(response.prompt_logprobs_np[:first]).all()
        own = wanted[torch.arange(first - 1, 36), torch.tensor(prompt[first:])]
        np.testing.assert_allclose(response.prompt_logprobs_np[first:], own, atol=1e-5)
        top = response.topk_prompt_logprobs
        assert top is not None
        assert top[:first] == [None] * first
        for row, expected in zip(top[first:], wanted[first - 1 : 36], strict=True):
            values, ids = expected.topk(4)
            assert row is not None
            assert [t for t, _ in row] == ids.tolist()
            assert [lp for _, lp in row] == pytest.approx(values.tolist(), abs=1e-5)
        assert response.target_prompt_logprobs is not None
        found = response.target_prompt_logprobs.to_numpy()
        expected = np.zeros((36, 2), np.float32)
        expected[5, 0] = wanted[5, 3]
        expected[35] = wanted[35, [319, 0]]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert not found[(targets < 0)].any()


@pytest.mark.row(204)
def test_a_scored_suffix_is_served_from_the_cache() -> None:
    engine = make_engine("llama")
    prompt = random_prompt(100, 8)
    sample(engine, make_job("a", prompt))
    response = sample(engine, make_job("a", prompt, prompt_logprobs=True, prompt_logprobs_last_n=10))
    # Positions 90 on are scored from the logits behind 89 on: five blocks of 16 lie before.
    assert response.prompt_cache_hit_tokens == 80
    assert sample(engine, make_job("a", prompt, prompt_logprobs=True)).prompt_cache_hit_tokens == 0


def test_alternative_tokens() -> None:
    engine = make_engine("qwen2", max_topk=SHAPE.vocab_size)
    prompt = random_prompt(30, 2)
    job = make_job("b", prompt, prompt_alt_tokens_k=40, topk_prompt_logprobs=1, temperature=0.5, seed=4, max_tokens=1)
    response = sample(engine, job)
    assert response.prompt_alt_tokens is not None
    tokens = response.prompt_alt_tokens.tokens.to_numpy()
    logprobs = response.prompt_alt_tokens.logprobs.to_numpy()
    assert tokens.shape == logprobs.shape == (29, 40)
    # Logprobs are the model's own: those of the same ids as targets.
    again = sample(engine, make_job("b", prompt, target_prompt_logprobs=tokens, max_tokens=1))
    assert again.target_prompt_logprobs is not None
    np.testing.assert_allclose(again.target_prompt_logprobs.to_numpy(), logprobs, atol=1e-6)
    # Draws differ, follow temperature 0.5, and repeat under the same seed.
    vocab = np.tile(np.arange(SHAPE.vocab_size), (29, 1))
    every = sample(engine, make_job("b", prompt, target_prompt_logprobs=vocab, max_tokens=1))
    assert every.target_prompt_logprobs is not None
    p = torch.from_numpy(every.target_prompt_logprobs.to_numpy() / 0.5).double().softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean().item()
    seen = -p.log().gather(-1, torch.from_numpy(tokens)).mean().item()
    assert seen == pytest.approx(entropy, rel=0.05)
    repeated = sample(engine, make_job("b", prompt, prompt_alt_tokens_k=40, temperature=0.5, seed=4, max_tokens=1))
    assert repeated.prompt_alt_tokens is not None
    np.testing.assert_array_equal(repeated.prompt_alt_tokens.tokens.to_numpy(), tokens)
