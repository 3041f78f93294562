"""What the sampler promises: stops, lengths, sharing, cancelling, errors, neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.checkpoints import SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import drain, make_job, random_prompt, run_all, sample, samples
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.sampling.drawing.next_tokens import Drawing, NextToken
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import LoraConfig

EOS = 258


def make_engine(**options: object) -> Engine:
    engine = load_engine(checkpoint("qwen3"), **options)  # pyright: ignore[reportArgumentType]
    engine.load_sampler("base", None)
    engine.create_model("m", LoraConfig(rank=8))
    randomise_adapter(engine, "m", 0)
    engine.snapshot("m", "s")
    return engine


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine()


@pytest.mark.row(2)
def test_each_adapter_gives_its_own_output_in_one_batch(engine: Engine) -> None:
    prompt = random_prompt(20, 0)
    jobs = [make_job(name, prompt, temperature=0.0, max_tokens=30) for name in ("s", "base", "s", "base")]
    together = [r.sequences[0] for _, r in samples(engine, jobs)]
    assert together[0].tokens == together[2].tokens
    assert together[1].tokens == together[3].tokens
    assert together[0].tokens != together[1].tokens
    for job, sequence in zip(jobs[:2], together, strict=False):
        alone = sample(engine, make_job(job.sampler_id, prompt, temperature=0.0, max_tokens=30)).sequences[0]
        assert alone.tokens == sequence.tokens
        np.testing.assert_allclose(alone.logprobs, sequence.logprobs, atol=1e-5)


def test_a_snapshot_does_not_move_with_training(engine: Engine) -> None:
    own = make_engine()
    prompt = random_prompt(20, 1)
    before = sample(own, make_job("s", prompt)).sequences[0].tokens
    randomise_adapter(own, "m", 77)
    assert sample(own, make_job("s", prompt)).sequences[0].tokens == before
    own.snapshot("m", "s")
    # The same name with new weights: nothing of the old prompt is reused.
    response = sample(own, make_job("s", prompt))
    assert response.prompt_cache_hit_tokens == 0
    assert response.sequences[0].tokens != before


def test_stops_at_the_models_end_unless_told_otherwise(engine: Engine) -> None:
    prompts = [random_prompt(4, i) for i in range(40)]
    free = {j.prompt[0] * 1000 + j.prompt[1]: r for j, r in samples(engine, [_long(p, []) for p in prompts])}
    ended = 0
    for job, response in samples(engine, [_long(p, None) for p in prompts]):
        whole = free[job.prompt[0] * 1000 + job.prompt[1]].sequences[0]
        (sequence,) = response.sequences
        assert len(whole.tokens) == 200
        assert whole.stop_reason == "length"
        end = whole.tokens.index(EOS) + 1 if EOS in whole.tokens else 200
        assert sequence.tokens == whole.tokens[:end]
        assert sequence.logprobs is not None
        assert len(sequence.logprobs) == end
        assert sequence.stop_reason == ("stop" if EOS in whole.tokens else "length")
        ended += sequence.stop_reason == "stop"
    assert ended > 3


def _long(prompt: list[int], stop: object) -> SampleJob:
    return make_job("s", prompt, max_tokens=200, seed=prompt[0], stop=stop)


def test_stop_tokens_and_strings_end_where_they_are_completed(engine: Engine) -> None:
    prompt = random_prompt(6, 3)
    whole = sample(engine, make_job("s", prompt, max_tokens=100)).sequences[0].tokens
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    token = whole[30]
    got = sample(engine, make_job("s", prompt, max_tokens=100, stop=[token, 319])).sequences[0]
    assert got.tokens == whole[: whole.index(token) + 1]
    assert got.stop_reason == "stop"
    text = tokenizer.decode(whole[40:43], skip_special_tokens=False)
    ends = [n for n in range(101) if text in tokenizer.decode(whole[:n], skip_special_tokens=False)]
    assert ends
    got = sample(engine, make_job("s", prompt, max_tokens=100, stop=["never here", text])).sequences[0]
    assert got.tokens == whole[: ends[0]]
    assert got.stop_reason == "stop"


def test_max_tokens(engine: Engine) -> None:
    assert len(sample(engine, make_job("s", [1], max_tokens=1)).sequences[0].tokens) == 1
    prompt = random_prompt(SHAPE.context_length - 9, 0)
    (sequence,) = sample(engine, make_job("s", prompt, max_tokens=None)).sequences
    assert (len(sequence.tokens), sequence.stop_reason) == (9, "length")
    # Beyond the context nothing is generated.
    (sequence,) = sample(engine, make_job("s", prompt, max_tokens=5000)).sequences
    assert (len(sequence.tokens), sequence.stop_reason) == (9, "length")


def test_prompts_are_computed_once(engine: Engine) -> None:
    own = make_engine()
    prompt = random_prompt(100, 0)
    first = sample(own, make_job("s", prompt, 8))
    assert first.prompt_cache_hit_tokens == 0
    assert own.sampler.schedule.blocks.highest < 7 + 8 * 3
    assert sample(own, make_job("s", prompt, 8)).prompt_cache_hit_tokens == 96
    assert sample(own, make_job("base", prompt)).prompt_cache_hit_tokens == 0
    longer = prompt + first.sequences[2].tokens[:15] + [7]
    assert sample(own, make_job("s", longer)).prompt_cache_hit_tokens == 112
    # All of a prompt of whole blocks but the last, whose logits are needed.
    assert sample(own, make_job("s", prompt[:96])).prompt_cache_hit_tokens == 80


def test_samples_of_a_group_do_not_depend_on_its_size(engine: Engine) -> None:
    prompt = random_prompt(37, 2)
    many = sample(engine, make_job("s", prompt, 300, max_tokens=6))
    few = sample(engine, make_job("s", prompt, 3, max_tokens=6))
    assert [s.tokens for s in few.sequences] == [s.tokens for s in many.sequences[:3]]
    assert len({tuple(s.tokens) for s in many.sequences}) > 290


def test_cancelling_frees_and_disturbs_nobody(engine: Engine) -> None:
    wanted = sample(engine, make_job("s", [1, 2, 3], max_tokens=40)).sequences[0].tokens
    jobs = [make_job("s", random_prompt(30, 9), 4, max_tokens=500) for _ in range(3)]
    kept = make_job("s", [1, 2, 3], max_tokens=40)
    for job in (*jobs, kept):
        engine.sampler.add(job)
    for _ in range(10):
        engine.sampler.step()
    for job in jobs:
        engine.sampler.cancel(job.request_id)
    engine.sampler.cancel("unknown")
    results = drain(engine)
    assert set(results) == {kept.request_id}
    result = results[kept.request_id]
    assert isinstance(result, SampleResponse)
    assert result.sequences[0].tokens == wanted


def test_each_step_says_whom_it_computes_before_it_does(engine: Engine) -> None:
    told: list[set[str]] = []
    engine.sampler.on_step = lambda ids: told.append(set(ids))
    first, second = make_job("s", [1, 2, 3], 2, max_tokens=4), make_job("s", [4, 5], max_tokens=4)
    engine.sampler.add(first)
    engine.sampler.step()
    engine.sampler.add(second)
    # A prompt is computed beside nobody who is generating.
    for _ in range(3):
        engine.sampler.step()
    drain(engine)
    engine.sampler.on_step = lambda ids: None
    assert told[0] == {first.request_id}
    assert {second.request_id} in told
    assert {first.request_id, second.request_id} in told


def test_a_released_sampler_ends_what_it_began() -> None:
    own = make_engine()
    wanted = sample(own, make_job("s", [1, 2, 3], max_tokens=40)).sequences[0].tokens
    job = make_job("s", [1, 2, 3], max_tokens=40)
    own.sampler.add(job)
    own.sampler.step()
    own.release_sampler("s")
    # A new adapter must not get the slot that is still read.
    own.create_model("other", LoraConfig(rank=8))
    randomise_adapter(own, "other", 5)
    with pytest.raises(UserError, match="sampler_id: got 's'"):
        own.sampler.add(make_job("s", [1]))
    result = drain(own)[job.request_id]
    assert isinstance(result, SampleResponse)
    assert result.sequences[0].tokens == wanted


@pytest.mark.parametrize("where", ["prompt", "scores"])
def test_weights_that_diverged_fail_alone(where: str) -> None:
    own = make_engine()
    jobs = [make_job("s", random_prompt(30, i), 2, max_tokens=30, prompt_logprobs=True) for i in range(4)]
    wanted = [[s.tokens for s in r.sequences] for _, r in samples(own, jobs)]
    own.create_model("bad", LoraConfig(rank=8))
    own.adapters.get("bad").master.fill_(float("nan"))
    own.adapters.get("bad").publish()
    own.snapshot("bad", "bad")
    bad = [make_job("bad", random_prompt(30, i), prompt_logprobs=where == "scores") for i in range(20)]
    again = [make_job("s", job.prompt, 2, max_tokens=30, prompt_logprobs=True) for job in jobs]
    # The bad ones leave more half-filled blocks behind than prompts are copied to: generation goes on in them.
    results = run_all(own, bad[:10] + again + bad[10:])
    for job in bad:
        error = results[job.request_id]
        assert isinstance(error, UserError)
        assert "logits that are not finite" in str(error)
    for job, tokens in zip(again, wanted, strict=True):
        result = results[job.request_id]
        assert isinstance(result, SampleResponse)
        assert [s.tokens for s in result.sequences] == tokens
        assert result.prompt_logprobs_np is not None
        assert np.isfinite(result.prompt_logprobs_np[1:]).all()


def test_one_sample_ends_as_another_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_engine()
    whole = sample(own, make_job("s", [1, 2, 3], temperature=0.0)).sequences[0].tokens
    end = next(n for n in range(1, 16) if whole[n] not in whole[:n])
    job = make_job("s", [1, 2, 3], 2, temperature=0.0, stop=[whole[end]])
    own.sampler.add(job)
    for _ in range(end):
        assert own.sampler.step() == []

    whole_draw = Drawing.next

    def first_row_alone(self: Drawing, logits: torch.Tensor) -> list[NextToken]:
        return [token if i == 0 else NextToken(None, 0.0, None) for i, token in enumerate(whole_draw(self, logits))]

    monkeypatch.setattr(Drawing, "next", first_row_alone)
    ((request_id, error),) = own.sampler.step()
    assert request_id == job.request_id
    assert isinstance(error, UserError)
    # `drain` sees that the first sample's blocks came back as well.
    assert drain(own) == {}


def test_a_failing_pass_ends_its_requests_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = make_job("s", [1, 2, 3])
    engine.sampler.add(broken)
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.base), "hidden", _out_of_memory)
        ((request_id, error),) = engine.sampler.step()
    assert (request_id, type(error)) == (broken.request_id, torch.OutOfMemoryError)
    assert len(sample(engine, make_job("s", [1, 2, 3])).sequences[0].tokens) == 16


def _out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("no memory left")


def test_what_the_cache_cannot_hold_is_refused() -> None:
    own = make_engine()
    own.sampler.schedule.blocks.num_blocks = 4
    with pytest.raises(UserError, match=r"got '65 tokens', expected at most 64, which the KV cache holds"):
        own.sampler.add(make_job("s", random_prompt(65, 0)))
    grows = make_job("s", random_prompt(50, 0), 3, max_tokens=100)
    fits = make_job("s", random_prompt(50, 1), 3, max_tokens=15)
    results = run_all(own, [grows, fits])
    error = results[grows.request_id]
    assert isinstance(error, UserError)
    assert "got '65 tokens', expected at most 64" in str(error)
    assert isinstance(results[fits.request_id], SampleResponse)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, r"prompt: got '0 tokens', expected at least one"),
        ([1] * 1025, {}, r"prompt: got '1025 tokens', expected at most"),
        ([1] * 1024, {}, r"prompt: got '1024 tokens', expected at most 1023"),
        ([1, 320], {}, r"prompt\[1\]: got 320, expected a token id from 0 to 319"),
        ([1, -1], {}, r"prompt\[1\]: got -1"),
        ([1], {"max_tokens": 0}, r"sampling_params\.max_tokens: got 0, expected at least 1"),
        ([1], {"temperature": -0.1}, r"sampling_params\.temperature: got -0\.1"),
        ([1], {"temperature": float("nan")}, r"sampling_params\.temperature: got nan"),
        ([1], {"top_p": 0.0}, r"sampling_params\.top_p: got 0\.0, expected 0 < top_p <= 1"),
        ([1], {"top_k": 0}, r"sampling_params\.top_k: got 0"),
        ([1], {"stop": ["a", ""]}, r"sampling_params\.stop: got ''"),
        ([1], {"stop": [400]}, r"sampling_params\.stop: got 400"),
        ([1], {"num_samples": 0}, r"num_samples: got 0"),
        ([1], {"topk_prompt_logprobs": 65}, r"topk_prompt_logprobs: got 65, expected 0 to 64"),
        ([1], {"topk_sample_logprobs": -1}, r"topk_sample_logprobs: got -1"),
        ([1], {"prompt_alt_tokens_k": 65}, r"prompt_alt_tokens_k: got 65"),
        ([1, 2], {"prompt_logprobs_last_n": 1}, r"prompt_logprobs_last_n: got 1, expected to be absent"),
        ([1, 2], {"prompt_logprobs": True, "prompt_logprobs_last_n": 2}, r"prompt_logprobs_last_n: got 2, expected 1"),
        ([1, 2], {"target_prompt_logprobs": np.zeros((2, 1), np.int64)}, r"shape: got \[2, 1\], expected \[1, K\]"),
        ([1, 2], {"target_prompt_logprobs": np.full((1, 1), 320)}, r"target_prompt_logprobs: got 320"),
        ([1, 2], {"target_prompt_logprobs": np.full((1, 1), -2)}, r"target_prompt_logprobs: got -2"),
    ],
)
def test_bad_requests(engine: Engine, prompt: list[int], options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.sampler.add(make_job("s", prompt, **options))
    assert not engine.sampler.has_work


def test_what_the_service_must_set(engine: Engine) -> None:
    with pytest.raises(ValueError, match="seed: got None"):
        engine.sampler.add(make_job("s", [1], seed=None))
    engine.sampler.add(make_job("s", [1], request_id="twice"))
    with pytest.raises(ValueError, match="request_id: got 'twice'"):
        engine.sampler.add(make_job("s", [1], request_id="twice"))
    drain(engine)


def test_a_prompt_of_one_token_has_no_scores(engine: Engine) -> None:
    empty = np.zeros((0, 3), np.int64)
    response = sample(
        engine,
        make_job(
            "s", [4], prompt_logprobs=True, topk_prompt_logprobs=2, target_prompt_logprobs=empty, prompt_alt_tokens_k=5
        ),
    )
    assert response.prompt_logprobs == [None]
    assert response.topk_prompt_logprobs == [None]
    assert response.target_prompt_logprobs is not None
    assert response.target_prompt_logprobs.shape == [0, 3]
    assert response.prompt_alt_tokens is not None
    assert response.prompt_alt_tokens.tokens.shape == [0, 5]


def test_steps_are_bounded() -> None:
    own = make_engine(prefill_tokens=32, max_decode_batch=6)
    sizes: list[int] = []
    hidden = type(own.base).hidden

    def counted(base: BaseModel, input_ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        sizes.append(len(input_ids))
        return hidden(base, input_ids, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(own.base), "hidden", counted)
        run_all(own, [make_job("s", random_prompt(100, i), 3) for i in range(5)])
    assert max(sizes) <= 32
    # Decode steps of all six are there, although prompts came in meanwhile.
    assert 6 in sizes


def test_the_cache_grows_with_use() -> None:
    own = make_engine(kv_cache_mb=64)
    assert own.sampler.cache.bytes_held == 0
    sample(own, make_job("s", [1, 2, 3]))
    small = own.sampler.cache.bytes_held
    run_all(own, [make_job("s", random_prompt(900, i), max_tokens=2) for i in range(8)])
    assert small < own.sampler.cache.bytes_held <= 64 * 2**20
