"""Whatever is asked for together, every token comes from the learner's distribution as its request shapes it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.examples import examples
from tests.support.sampling import drain, make_job, random_prompt, run_all, shaped
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, SampleJob, TrainRow
from tinsmith.types.datum import Datum
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import LoraConfig
from tinsmith.types.tensor import TensorData

MODELS = ("a", "b", "c")


@cache
def engine_of(places: int, prefill: int) -> Engine:
    """Float64, so that no rounding moves a token over the edge of a nucleus."""
    engine = load_engine(
        checkpoint("qwen3"), dtype="float64", max_decode_batch=places, prefill_tokens=prefill, kv_block_size=4
    )
    for seed, model_id in enumerate(MODELS):
        engine.create_model(model_id, LoraConfig(rank=4 + seed))
        randomise_adapter(engine, model_id, seed)
        engine.snapshot(model_id, model_id)
    return engine


def learned(engine: Engine, model_id: str, tokens: list[int]) -> Tensor:
    """Logprobs of the whole vocabulary behind each token, [N, V]."""
    every = np.broadcast_to(np.arange(SHAPE.vocab_size), (len(tokens), SHAPE.vocab_size)).copy()
    inputs = {
        "target_tokens": TensorData.from_numpy(every),
        "weights": TensorData.from_numpy(np.zeros(every.shape, np.float32)),
    }
    datum = Datum(Datum(tokens=tokens, targets=None).model_input, inputs)
    (output,) = engine.train_rows([TrainRow(model_id, datum, "cross_entropy", {}, False)])
    assert isinstance(output, RowOutput), output
    return torch.from_numpy(output.logprobs)


requests = st.fixed_dictionaries(
    {
        "sampler_id": st.sampled_from(MODELS),
        # Of few kinds, so that prefixes are shared, and as long as a block of the cache, or not.
        "prompt": st.builds(
            lambda n, more: random_prompt(n, 1) + more, st.integers(1, 30), st.sampled_from([[], [7], [8, 9]])
        ),
        "num_samples": st.integers(1, 3),
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([-1, 1, 5, 319, 1000]),
        "top_p": st.sampled_from([1.0, 0.95, 0.3, 1e-6]),
        "seed": st.integers(0, 3),
        "max_tokens": st.integers(1, 12),
        "stop": st.sampled_from([[], list(range(0, 320, 5)), ["a", "qu"]]),
    }
)


@examples(8)
@given(
    wanted=st.lists(requests, min_size=1, max_size=5),
    places=st.sampled_from([2, 64]),
    prefill=st.sampled_from([16, 64]),
    blocks=st.integers(12, 40),
    pause=st.integers(0, 6),
)
@pytest.mark.row(204, 208, 209)
def test_every_token_is_the_learners(
    wanted: list[dict[str, Any]], places: int, prefill: int, blocks: int, pause: int
) -> None:
    engine = engine_of(places, prefill)
    # So few that requests push each other out and begin again.
    engine.sampler.schedule.blocks.num_blocks = blocks
    jobs = [make_job(**options) for options in wanted]
    engine.sampler.add(jobs[0])
    found: dict[str, SampleResponse | Exception] = {}
    for _ in range(pause):
        found |= dict(engine.sampler.step())
    found |= run_all(engine, jobs[1:]) if len(jobs) > 1 else drain(engine)
    for job in jobs:
        response = found[job.request_id]
        assert isinstance(response, SampleResponse), response
        for sequence in response.sequences:
            check(engine, job, list(sequence.tokens), list(sequence.logprobs or []), str(sequence.stop_reason))


def check(engine: Engine, job: SampleJob, tokens: list[int], logprobs: list[float], stop_reason: str) -> None:
    params = job.params
    behind = learned(engine, job.sampler_id, [*job.prompt, *tokens])[len(job.prompt) - 1 :]
    for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        ours = shaped(behind[place], params.temperature, params.top_k, params.top_p)
        assert logprob == pytest.approx(float(ours[token]), abs=1e-6), (job, place)
        assert ours[token] > -torch.inf
        if params.temperature == 0:
            assert token == int(behind[place].argmax())
    stops = params.stop if isinstance(params.stop, list) else []
    ids = {stop for stop in stops if isinstance(stop, int)}
    assert not ids & set(tokens[:-1])
    texts = [stop for stop in stops if isinstance(stop, str)]
    assert engine.tokenizer is not None
    before = engine.tokenizer.decode(tokens[:-1], skip_special_tokens=False)
    assert not any(text in before for text in texts)
    whole = engine.tokenizer.decode(tokens, skip_special_tokens=False)
    ended = tokens[-1] in ids or any(text in whole for text in texts)
    assert ended == (stop_reason == "stop")
    assert ended or len(tokens) == params.max_tokens


@examples(4)
@given(
    sampler_id=st.sampled_from(MODELS),
    prompt=st.integers(1, 9),
    temperature=st.sampled_from([0.4, 1.0, 2.0]),
    top_k=st.sampled_from([-1, 12]),
    top_p=st.sampled_from([1.0, 0.8]),
)
@pytest.mark.row(209)
def test_frequencies_are_those_of_the_distribution(
    sampler_id: str, prompt: int, temperature: float, top_k: int, top_p: float
) -> None:
    engine = engine_of(64, 64)
    engine.sampler.schedule.blocks.num_blocks = 4096
    tokens = random_prompt(prompt, prompt)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_tokens": 1, "num_samples": 500}
    jobs = [make_job(sampler_id, tokens, seed=seed, **options) for seed in range(4)]
    drawn: list[int] = []
    for response in run_all(engine, jobs).values():
        assert isinstance(response, SampleResponse), response
        drawn += [token for sequence in response.sequences for token in sequence.tokens]
    expected = shaped(learned(engine, sampler_id, tokens)[-1], temperature, top_k, top_p).exp().numpy() * len(drawn)
    counts = np.bincount(drawn, minlength=expected.size)
    assert not counts[expected == 0].any()
    # Pearson's statistic, cells of fewer than five expected draws thrown together.
    often = expected >= 5
    cells = [(c, e) for c, e in zip(counts[often], expected[often], strict=True)]
    if expected[~often].sum() >= 1:
        cells.append((counts[~often].sum(), expected[~often].sum()))
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = max(1, len(cells) - 1)
    # Five standard deviations: one in three million, and the draws are the same in every run.
    assert statistic <= freedom + 5 * (2 * freedom) ** 0.5
