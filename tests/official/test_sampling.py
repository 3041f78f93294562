"""Sampling with the official SDK: every token's logprob is recomputed, by the service and by plain transformers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import tinker
import torch
from tinker import SamplingParams

from tests.official.batches import model_input, random_ids, supervised
from tests.official.conftest import NewModel
from tests.official.reference import Reference
from tests.support.checkpoints import make_tokenizer
from tests.support.live_server import LLAMA, LiveServer, model_folder

PROMPT = random_ids(np.random.default_rng(42), 24)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trained(service: tinker.ServiceClient) -> tinker.TrainingClient:
    """An adapter that differs clearly from its base."""
    model = service.create_lora_training_client(LLAMA, rank=8, seed=1).result(timeout=60)
    for _ in range(3):
        model.forward_backward(supervised((20, 9)), "cross_entropy")
        model.optim_step(tinker.AdamParams(learning_rate=1e-2, eps=1e-8)).result(timeout=60)
    return model


@pytest.fixture(scope="module")
def sampler(trained: tinker.TrainingClient) -> tinker.SamplingClient:
    """A snapshot of it."""
    return trained.save_weights_and_get_sampling_client().result(timeout=60)


@pytest.fixture(scope="module")
def reference(trained: tinker.TrainingClient, live_server: LiveServer) -> Reference:
    """The same weights in PEFT, float64."""
    path = trained.save_weights_for_sampler("reference").result(timeout=60).path
    return Reference(model_folder(LLAMA), live_server.checkpoint_folder(path))


def sample(sampler: tinker.SamplingClient, n: int = 1, prompt: Sequence[int] = PROMPT, **params: object):
    """Sample with a fixed seed, never stopping, unless asked for otherwise."""
    options = SamplingParams(**{"max_tokens": 12, "seed": 7, "stop": []} | params)  # pyright: ignore
    return sampler.sample(model_input(prompt), n, options).result(timeout=60)


def distribution(reference: Reference, tokens: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """log-softmax at every position, [N, V]."""
    return (reference.next_logits(tokens) / temperature).log_softmax(-1)


@pytest.mark.row(2, 39, 204, 208)
def test_sampled_logprobs_recompute_on_sampler_learner_and_peft(
    trained: tinker.TrainingClient, sampler: tinker.SamplingClient, reference: Reference
) -> None:
    response = sample(sampler, n=4, max_tokens=40)
    assert len({s.sequence_id for s in response.sequences}) == 4
    assert len({tuple(s.tokens) for s in response.sequences}) == 4
    differences = []
    for sequence in response.sequences:
        assert len(sequence.tokens) == 40
        assert sequence.stop_reason == "length"
        full = PROMPT + list(sequence.tokens)
        scored = sampler.compute_logprobs(model_input(full)).result(timeout=60)
        assert scored[0] is None
        assert sequence.logprobs == pytest.approx(scored[len(PROMPT) :], abs=TOLERANCE)
        wanted = distribution(reference, full[:-1])[range(len(full) - 1), full[1:]]
        assert scored[1:] == pytest.approx(wanted.tolist(), abs=TOLERANCE)
        datum = tinker.Datum(model_input=model_input(full[:-1]), loss_fn_inputs={"target_tokens": full[1:]})
        learner = trained.forward([datum], "cross_entropy").result(timeout=60).loss_fn_outputs[0]["logprobs"]
        differences += (np.array(sequence.logprobs) - learner.to_numpy()[len(PROMPT) - 1 :]).tolist()
    # KL(sampler || learner), estimated on the sampler's own tokens by exp(-d) - 1 + d, which is never negative.
    d = np.array(differences)
    assert np.abs(d).max() <= TOLERANCE
    assert float(np.mean(np.exp(-d) - 1 + d)) < 1e-6


@pytest.mark.row(209)
def test_a_seed_repeats_and_another_differs(sampler: tinker.SamplingClient) -> None:
    first, again, other = (sample(sampler, n=3, seed=s) for s in (11, 11, 12))
    tokens = [[list(s.tokens) for s in r.sequences] for r in (first, again, other)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]
    free = [sample(sampler, seed=None).sequences[0].tokens for _ in range(3)]
    assert len({tuple(t) for t in free}) == 3
    # The first samples of a larger group are those of a smaller one.
    assert [list(s.tokens) for s in sample(sampler, n=2, seed=11).sequences] == tokens[0][:2]


@pytest.mark.row(38)
def test_temperature_zero_and_top_k_one_are_greedy(sampler: tinker.SamplingClient, reference: Reference) -> None:
    tokens: list[int] = []
    for _ in range(12):
        tokens.append(int(reference.next_logits(PROMPT + tokens)[-1].argmax()))
    greedy = sample(sampler, temperature=0.0).sequences[0]
    assert list(greedy.tokens) == tokens
    own = distribution(reference, PROMPT + tokens)[range(len(PROMPT) - 1, len(PROMPT) + 11), tokens]
    assert greedy.logprobs == pytest.approx(own.tolist(), abs=TOLERANCE)
    for params in ({"top_k": 1}, {"top_p": 1e-6}):
        found = sample(sampler, **params).sequences[0]
        assert list(found.tokens) == tokens
        assert found.logprobs == pytest.approx([0.0] * 12, abs=TOLERANCE)


@pytest.mark.row(38)
def test_logprobs_are_those_of_the_distribution_sampled_from(
    sampler: tinker.SamplingClient, reference: Reference
) -> None:
    for params in ({"temperature": 0.6}, {"temperature": 1.7, "top_k": 20}, {"top_p": 0.5}):
        sequence = sample(sampler, max_tokens=20, **params).sequences[0]
        full = PROMPT + list(sequence.tokens)
        rows = distribution(reference, full[:-1], params.get("temperature", 1.0))[len(PROMPT) - 1 :]
        wanted = []
        for row, token in zip(rows, sequence.tokens, strict=True):
            kept = _kept(row, params.get("top_k", -1), params.get("top_p", 1.0))
            assert kept[token], params
            wanted.append(float(row[token] - row[kept].logsumexp(-1)))
        assert sequence.logprobs == pytest.approx(wanted, abs=TOLERANCE), params


def _kept(row: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Mark the tokens that top-k and top-p leave: the smallest set of the likeliest whose probability reaches p."""
    order = row.argsort(descending=True)
    before = row[order].exp().cumsum(-1) - row[order].exp()
    kept = torch.zeros_like(row, dtype=torch.bool)
    kept[order[before < top_p]] = True
    if top_k > 0:
        kept[order[top_k:]] = False
    return kept


@pytest.mark.row(38, 201)
def test_stops(sampler: tinker.SamplingClient) -> None:
    free = sample(sampler, max_tokens=60).sequences[0]
    assert (len(free.tokens), free.stop_reason) == (60, "length")
    tokens = list(free.tokens)
    stop = tokens[25]
    first = tokens.index(stop)
    for form in ([stop], [999 % 320, stop]):
        if form[0] in tokens[:first]:
            continue
        found = sample(sampler, max_tokens=60, stop=form).sequences[0]
        assert (list(found.tokens), found.stop_reason) == (tokens[: first + 1], "stop")
        assert found.logprobs == pytest.approx(free.logprobs[: first + 1], abs=TOLERANCE)
    text, index = _ascii_token(tokens)
    for form in (text, ["never to be seen", text]):
        found = sample(sampler, max_tokens=60, stop=form).sequences[0]
        assert (list(found.tokens), found.stop_reason) == (tokens[: index + 1], "stop")


def _ascii_token(tokens: list[int]) -> tuple[str, int]:
    """Return the text of the first token that is a printable ASCII byte, and where it stands first."""
    tokenizer = make_tokenizer("llama")
    for index, token in enumerate(tokens):
        text = tokenizer.decode([token]) if token < 256 else ""
        if len(text) == 1 and text.isascii() and text.isprintable() and text.strip():
            return text, index
    raise AssertionError("no printable token was sampled; choose another seed")


@pytest.mark.row(38)
def test_without_a_stop_the_end_of_turn_ends_it(service: tinker.ServiceClient, new_model: NewModel) -> None:
    eos = make_tokenizer("llama").eos_token_id
    model = new_model()
    ids = PROMPT + [eos] * 4
    datum = tinker.Datum(model_input=model_input(ids[:-1]), loss_fn_inputs={"target_tokens": ids[1:]})
    for _ in range(12):
        model.forward_backward([datum], "cross_entropy")
        model.optim_step(tinker.AdamParams(learning_rate=2e-2)).result(timeout=60)
    sampler = model.save_weights_and_get_sampling_client().result(timeout=60)
    stopped = sample(sampler, stop=None, temperature=0.0).sequences[0]
    assert (list(stopped.tokens), stopped.stop_reason) == ([eos], "stop")
    onward = sample(sampler, stop=[], temperature=0.0).sequences[0]
    assert (len(onward.tokens), onward.tokens[0], onward.stop_reason) == (12, eos, "length")


@pytest.mark.row(204)
def test_prompt_and_topk_logprobs(sampler: tinker.SamplingClient, reference: Reference) -> None:
    params = SamplingParams(max_tokens=6, seed=3, stop=[])
    response = sampler.sample(
        model_input(PROMPT), 2, params, include_prompt_logprobs=True, topk_prompt_logprobs=5, topk_sample_logprobs=4
    ).result(timeout=60)
    rows = distribution(reference, PROMPT)
    assert response.prompt_logprobs is not None
    assert response.prompt_logprobs[0] is None
    wanted = rows[range(len(PROMPT) - 1), PROMPT[1:]]
    assert response.prompt_logprobs[1:] == pytest.approx(wanted.tolist(), abs=TOLERANCE)
    assert response.topk_prompt_logprobs is not None
    assert response.topk_prompt_logprobs[0] is None
    _check_topk(response.topk_prompt_logprobs[1:], rows[:-1], 5)
    for sequence in response.sequences:
        assert sequence.topk_logprobs is not None
        full = PROMPT + list(sequence.tokens)
        _check_topk(sequence.topk_logprobs, distribution(reference, full[:-1])[len(PROMPT) - 1 :], 4)


def _check_topk(found: Sequence[Sequence[tuple[int, float]] | None], rows: torch.Tensor, k: int) -> None:
    assert len(found) == len(rows)
    for cell, row in zip(found, rows, strict=True):
        values, ids = row.topk(k)
        assert cell is not None
        assert [token for token, _ in cell] == ids.tolist()
        assert [lp for _, lp in cell] == pytest.approx(values.tolist(), abs=TOLERANCE)


@pytest.mark.row(204)
def test_target_logprobs_alternatives_and_the_last_n(sampler: tinker.SamplingClient, reference: Reference) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 320, (len(PROMPT) - 1, 3))
    ids[rng.random(ids.shape) < 0.3] = -1
    params = SamplingParams(max_tokens=1, seed=5, temperature=0.8)
    rows = distribution(reference, PROMPT)
    wanted = np.where(ids >= 0, np.take_along_axis(rows[:-1].numpy(), np.maximum(ids, 0), -1), 0.0)
    dense = tinker.TensorData.from_numpy(ids)
    sparse = tinker.TensorData.from_torch_sparse(torch.from_numpy(ids), pad_value=-1)
    for target in (dense, sparse):
        response = sampler.sample(
            model_input(PROMPT), 1, params, target_prompt_logprobs=target, prompt_alt_tokens_k=6
        ).result(timeout=60)
        assert response.target_prompt_logprobs is not None
        found = response.target_prompt_logprobs.to_torch().numpy()
        assert np.abs(found - wanted).max() <= TOLERANCE
        assert response.prompt_alt_tokens is not None
        tokens = response.prompt_alt_tokens.tokens.to_torch()
        assert tokens.shape == (len(PROMPT) - 1, 6)
        # Drawn at the request's temperature, reported as the model's own.
        logprobs = response.prompt_alt_tokens.logprobs.to_torch()
        assert float((logprobs - rows[:-1].gather(-1, tokens.long())).abs().max()) <= TOLERANCE
        assert len(tokens.unique()) > 20
    greedy = SamplingParams(max_tokens=1, seed=5, temperature=0.0)
    response = sampler.sample(model_input(PROMPT), 1, greedy, prompt_alt_tokens_k=2).result(timeout=60)
    assert response.prompt_alt_tokens is not None
    likeliest = rows[:-1].argmax(-1)
    assert torch.equal(response.prompt_alt_tokens.tokens.to_torch(), torch.stack([likeliest] * 2, -1))
    whole = sampler.compute_logprobs(model_input(PROMPT)).result(timeout=60)
    last = sampler.compute_logprobs(model_input(PROMPT), prompt_logprobs_last_n=4).result(timeout=60)
    assert last[:-4] == [None] * (len(PROMPT) - 4)
    assert last[-4:] == pytest.approx(whole[-4:], abs=TOLERANCE)


@pytest.mark.row(2, 28)
def test_a_snapshot_keeps_its_weights_while_training_goes_on(new_model: NewModel) -> None:
    model = new_model()
    data = supervised((20, 9))
    samplers = []
    for _ in range(3):
        samplers.append(model.save_weights_and_get_sampling_client().result(timeout=60))
        model.forward_backward(data, "cross_entropy")
        model.optim_step(tinker.AdamParams(learning_rate=1e-2)).result(timeout=60)
    first = [s.compute_logprobs(model_input(PROMPT)).result(timeout=60)[1:] for s in samplers]
    futures = [s.compute_logprobs(model_input(PROMPT)) for s in samplers]
    again = [f.result(timeout=60)[1:] for f in futures]
    for one, other in zip(first, again, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(first[0], first[1], strict=True)) > 1e-3
    assert max(abs(a - b) for a, b in zip(first[1], first[2], strict=True)) > 1e-3


@pytest.mark.row(201)
def test_sampling_the_base_itself(service: tinker.ServiceClient, reference: Reference) -> None:
    sampler = service.create_sampling_client(base_model=LLAMA).result(timeout=60)
    assert sampler.get_base_model() == LLAMA
    with reference.model.disable_adapter():
        wanted = distribution(reference, PROMPT)[range(len(PROMPT) - 1), PROMPT[1:]]
    found = sampler.compute_logprobs(model_input(PROMPT)).result(timeout=60)
    assert found[1:] == pytest.approx(wanted.tolist(), abs=TOLERANCE)


@pytest.mark.row(201)
def test_pickled_samplers_and_handles_sample_the_same(sampler: tinker.SamplingClient, live_server: LiveServer) -> None:
    wanted = list(sample(sampler).sequences[0].tokens)
    clones = [
        pickle.loads(pickle.dumps(sampler)),
        tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle(), api_key=live_server.key),
    ]
    for clone in clones:
        assert list(sample(clone).sequences[0].tokens) == wanted


@pytest.mark.row(201)
def test_the_tokenizer_of_a_model_named_by_its_folder(service: tinker.ServiceClient) -> None:
    name = str(model_folder(LLAMA))
    sampler = service.create_sampling_client(base_model=name).result(timeout=60)
    training = service.create_lora_training_client(name, rank=4).result(timeout=60)
    vocab = json.loads((model_folder(LLAMA) / "tokenizer.json").read_text())["model"]["vocab"]
    for tokenizer in (sampler.get_tokenizer(), training.get_tokenizer()):
        assert tokenizer.encode("a") == [vocab["a"]]
    response = sample(sampler, prompt=tokenizer.encode("hello"), max_tokens=3)
    assert len(response.sequences[0].tokens) == 3
