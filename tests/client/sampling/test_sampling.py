"""Sampling: prompts and parameters in every form, completions, snapshots, back-pressure, lost promises."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time

import httpx
import numpy as np
import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import Completion, ModelInput, SamplingParams, ServiceClient, TensorData, TrainingClient, UserError
from tinsmith.client.sampling import opened_sampler as sampler_module
from tinsmith.client.sampling.prompts import parse_params, parse_prompts
from tinsmith.client.tokenizer.tokenizer_sources import get_tokenizer
from tinsmith.types.outputs import SampledSequence

TOKENIZER = get_tokenizer("tinsmith-tiny")


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith-tiny")


@pytest.mark.row(38, 39, 76)
def test_completions_are_strings_that_know_their_tokens(training: TrainingClient) -> None:
    future = training.sample(prompts=["Hello", "abc"], params={"max_tokens": 3, "n": 2, "temperature": 1.0})
    assert len(future) == 4
    responses = list(future)
    assert future[0] == responses[0]
    assert future[1:3] == responses[1:3]
    assert [list(group) for group in future.groups] == [responses[:2], responses[2:]]
    assert responses == future.result() == asyncio.run(_twice(training))
    for one, prompt in zip(responses, ["Hello", "Hello", "abc", "abc"], strict=True):
        assert isinstance(one, str)
        assert one.text == one == TOKENIZER.decode(one.tokens, skip_special_tokens=True)
        assert type(one.text) is str
        assert one.prompt_tokens == TOKENIZER.encode(prompt)
        assert (len(one.tokens), one.logprobs, one.stop_reason) == (3, [-0.5] * 3, "length")
    rewards = [float("x" in response) for response in future]
    assert len(rewards) == 4


async def _twice(training: TrainingClient) -> list[Completion]:
    prompts, params = ["Hello", "abc"], {"max_tokens": 3, "num_samples": 2}
    future = await training.sample_async(prompts, params)
    once = await future
    assert once == await (await training.sample_async(prompts, SamplingParams(max_tokens=3), num_samples=2))
    return once


def test_completions_travel() -> None:
    one = Completion("hi", tokens=[1, 2], logprobs=None, prompt_tokens=[3], stop_reason="stop")
    for two in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert two == one
        assert (two.tokens, two.logprobs, two.prompt_tokens, two.stop_reason) == ([1, 2], None, [3], "stop")


@pytest.mark.row(38)
def test_forms_of_prompts() -> None:
    tokens = ModelInput.from_ints([1, 2])
    assert parse_prompts("Hello") == ["Hello"]
    assert parse_prompts(["a", "b"]) == ["a", "b"]
    assert parse_prompts([1, 2]) == [[1, 2]]
    assert parse_prompts(np.array([1, 2])) == [[1, 2]]
    assert parse_prompts(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert parse_prompts(tokens) == [[1, 2]]
    assert parse_prompts([tokens, [3], "x"]) == [[1, 2], [3], "x"]
    for wrong in ([], "", [[]], ["a", ""], [["a"]], [1.5], [True], {"a": 1}, 7, [None]):
        with pytest.raises(UserError, match="prompts"):
            parse_prompts(wrong)  # type: ignore[arg-type]


@pytest.mark.row(38, 39)
def test_forms_of_parameters() -> None:
    every = {"temperature": 0.5, "max_tokens": 3, "stop": ["x"], "top_p": 0.9, "top_k": 5, "seed": 1, "n": 4}
    params, count = parse_params(every, None)
    assert (params, count) == (
        SamplingParams(temperature=0.5, max_tokens=3, stop=["x"], top_p=0.9, top_k=5, seed=1),
        4,
    )
    assert parse_params(None, None) == (SamplingParams(), 1)
    assert parse_params(SamplingParams(seed=3), 2) == (SamplingParams(seed=3), 2)
    with pytest.raises(UserError, match=r"params\.temprature: unknown, did you mean 'temperature'\?"):
        parse_params({"temprature": 1.0}, None)
    with pytest.raises(UserError, match=r"params\.max_token: unknown, did you mean 'max_tokens'"):
        parse_params({"max_token": 1}, None)
    with pytest.raises(UserError, match=r"params\.temperature: got 'hot'"):
        parse_params({"temperature": "hot"}, None)
    with pytest.raises(UserError, match=r"params\.n: got \[2, 3\]"):
        parse_params({"n": 2, "num_samples": 3}, None)
    with pytest.raises(UserError, match=r"params\.n: got 0"):
        parse_params({"n": 0}, None)
    with pytest.raises(UserError, match=r"params: got \{Ellipsis\}"):
        parse_params({...}, None)  # type: ignore[arg-type]


def test_the_text_ends_before_the_stop() -> None:
    ids = TOKENIZER.encode("one\ntwo\nthree")
    sequence = SampledSequence("stop", ids, [0.0] * len(ids))

    def text(stop: object, reason: str = "stop") -> str:
        one = SampledSequence(reason, ids) if reason != "stop" else sequence  # type: ignore[arg-type]
        return Completion.of(one, [1], TOKENIZER, stop)  # type: ignore[arg-type]

    assert text("\n") == "one"
    assert text(["zzz", "two"]) == "one\n"
    assert text(["zzz"]) == text(None) == text([]) == "one\ntwo\nthree"
    assert text([ids[-1]]) == "one\ntwo\nthre"
    assert text("\n", "length") == "one\ntwo\nthree"
    assert TOKENIZER.eos_token_id is not None
    ended = SampledSequence("stop", [*ids, TOKENIZER.eos_token_id])
    assert Completion.of(ended, [1], TOKENIZER, None) == "one\ntwo\nthree"
    assert Completion.of(ended, [1], TOKENIZER, None).tokens[-1] == TOKENIZER.eos_token_id


@pytest.mark.row(28)
def test_samples_come_from_what_was_submitted_before(fake: FakeService, training: TrainingClient) -> None:
    """A snapshot is taken only where the weights may have changed since the last one."""

    def snapshots() -> int:
        return sum(kind == "save_weights_for_sampler" for _, kind, _ in fake.models[training.model_id].log)

    params = {"max_tokens": 1}
    first = training.sample([5], params)[0].tokens
    assert training.sample([5], params)[0].tokens == first
    training.forward_backward(batch(1), "cross_entropy")
    assert training.sample([5], params)[0].tokens == first
    assert snapshots() == 1
    training.optim_step()
    training.optim_step()
    assert training.sample([5], params)[0].tokens == [first[0] + 2]
    assert snapshots() == 2
    training.load_state(training.save_state())
    training.sample([5], params).result()
    assert snapshots() == 3


def test_a_failed_snapshot_is_not_used_again(fake: FakeService, training: TrainingClient) -> None:
    training.result()
    broken = [True]

    def fail(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("retrieve_future") and broken:
            broken.pop()
            return 200, b'{"error": "out of memory", "category": "server"}', "application/json"
        return None

    fake.intercept = fail
    with pytest.raises(Exception, match="out of memory"):
        training.sample("x", {"max_tokens": 1}).result()
    assert len(training.sample("x", {"max_tokens": 1}).result()) == 1


def test_sampling_client(fake: FakeService, service: ServiceClient) -> None:
    client = service.create_sampling_client(base_model="tinsmith-tiny")
    params = SamplingParams(max_tokens=2, stop=["a"], seed=3)
    response = client.sample(ModelInput.from_ints([1, 2, 3]), 2, params, include_prompt_logprobs=True).result()
    assert [len(sequence.tokens) for sequence in response.sequences] == [2, 2]
    assert response.prompt_logprobs == [None, -1.0, -1.0]
    assert len({sequence.sequence_id for sequence in response.sequences}) == 2
    assert client.compute_logprobs(ModelInput.from_ints([1, 2])).result() == [None, -1.0]
    assert asyncio.run(client.sample_async([1, 2, 3], 2, {"max_tokens": 2})) is not None
    assert asyncio.run(client.compute_logprobs_async([1, 2])) == [None, -1.0]
    assert [seq for _, seq, _ in fake.sampled] == [0, 1, 2, 3]
    assert fake.sampled[0][2]["sampling_params"] == params.wire()
    assert client.get_base_model() == "tinsmith-tiny"
    saved = service.create_sampling_client(model_path="tinker://r/sampler_weights/x")
    assert saved.get_base_model() == "tinsmith-tiny"
    assert fake.samplers[saved.sampler_id][1] == "tinker://r/sampler_weights/x"
    with pytest.raises(UserError, match="neither model_path nor base_model"):
        service.create_sampling_client()


def test_options_that_are_not_honoured_are_refused(service: ServiceClient) -> None:
    client = service.create_sampling_client(base_model="tinsmith-tiny")
    prompt, params = ModelInput.from_ints([1, 2]), SamplingParams(max_tokens=1)
    for arguments, message in [
        ({"target_prompt_logprobs": TensorData([1], "int64")}, "target_prompt_logprobs: got 'int64"),
        ({"target_prompt_logprobs": TensorData([[1.0]], "float32", [1, 1])}, "int64 of two dimensions"),
        ({"prompt_alt_tokens_k": -1}, "prompt_alt_tokens_k: got -1"),
        ({"prompt_logprobs_last_n": 1}, "include_prompt_logprobs=True"),
        ({"prompt_logprobs_last_n": 0, "include_prompt_logprobs": True}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            client.sample(prompt, 1, params, **arguments)
    with pytest.raises(UserError, match="num_samples: got 0"):
        client.sample(prompt, 0, params)
    with pytest.raises(Exception, match="does not give alternative tokens"):
        client.sample(prompt, 1, params, prompt_alt_tokens_k=2).result()
    with pytest.raises(Exception, match="does not limit prompt logprobs"):
        client.sample(
            ModelInput.from_ints([1, 2, 3]), 1, params, include_prompt_logprobs=True, prompt_logprobs_last_n=1
        ).result()
    with pytest.raises(UserError, match="retry_config"):
        service.create_sampling_client(base_model="x", retry_config=object())  # type: ignore[arg-type]


def test_back_pressure_pauses_and_repeats_the_same_number(
    fake: FakeService, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_SHORT_PAUSE_S", 0.2)
    client = service.create_sampling_client(base_model="tinsmith-tiny").result()
    refusals = [True, True]
    times: list[float] = []

    def full(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("asample"):
            times.append(time.monotonic())
            if refusals:
                refusals.pop()
                return 429, b'{"detail": "queue full"}', "application/json"
        return None

    fake.intercept = full
    first = client.sample([1], 1, {"max_tokens": 1})
    time.sleep(0.05)
    second = client.sample([1], 1, {"max_tokens": 1})
    first.result()
    second.result()
    assert sorted(seq for _, seq, _ in fake.sampled) == [0, 1]
    assert len(times) == 4
    assert times[1] - times[0] >= 0.19


def test_a_lost_promise_is_asked_for_again(
    fake: FakeService, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_RESUBMIT_S", 0.01)
    client = service.create_sampling_client(base_model="tinsmith-tiny").result()
    gone = [True, True]

    def lose(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("retrieve_future") and gone:
            gone.pop()
            return 410, b'{"detail": "promise gone"}', "application/json"
        return None

    fake.intercept = lose
    assert len(client.sample([1], 1, {"max_tokens": 2}).result().sequences) == 1
    assert [seq for _, seq, _ in fake.sampled] == [0, 1, 2]


def test_cancelling_stops_the_sampling(fake: FakeService, service: ServiceClient) -> None:
    client = service.create_sampling_client(base_model="tinsmith-tiny").result()
    pending = []

    def never(request: httpx.Request) -> tuple[int, bytes, str] | None:
        if request.url.path.endswith("retrieve_future"):
            pending.append(request)
            return 408, b'{"type": "try_again", "request_id": "?", "queue_state": "active"}', "application/json"
        return None

    fake.intercept = never
    future = client.sample([1], 1, {"max_tokens": 2})
    _wait_for(lambda: len(pending) > 1)
    assert future.cancel()
    _wait_for(lambda: bool(fake.cancelled))
    assert fake.cancelled == [fake.promises[(client.sampler_id, 0)]]


def _wait_for(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_more_samples_than_polls(fake: FakeService, service: ServiceClient) -> None:
    client = service.create_sampling_client(base_model="tinsmith-tiny")
    futures = [client.sample([i % 100], 1, {"max_tokens": 1}) for i in range(600)]
    assert [f.result().sequences[0].tokens[0] for f in futures] == [(i % 100) % 200 + 10 for i in range(600)]
