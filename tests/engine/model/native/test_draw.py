"""The draw in C against `Distribution` and `Race` in torch, with the same random numbers, and against probability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine
from tests.support.examples import examples
from tests.support.sampling import make_job, random_prompt, samples
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.drawing.native_draw import NativeDraw, draws_here
from tinsmith.engine.sampling.drawing import usual_draw
from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.next_tokens import Drawing
from tinsmith.engine.sampling.drawing.race import Race
from tinsmith.engine.sampling.drawing.randomness import stream_base, stream_keys
from tinsmith.engine.threads import THREADS

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here")

INFINITY, NAN = math.inf, math.nan
VOCABULARIES = st.one_of(st.integers(1, 3000), st.sampled_from([1, 15, 16, 17, 255, 256, 257, 512, 513, 2816]))
TEMPERATURES = st.one_of(st.sampled_from([0.0, 1.0, 1e-3, 1e-320]), st.floats(1e-3, 10))
# What a row may hold at some place beside usual numbers; only the first two leave it sound.
ODD = st.sampled_from([-INFINITY, -3e38, NAN, INFINITY, -NAN])


def numbers(rows: int, vocab: int, seed: int, spread: float = 4.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def by_torch(
    logits: Tensor, temperatures: list[float], streams: list[int], places: list[int]
) -> tuple[list[int], list[float]]:
    """What `NativeDraw.at` returns, from torch's operations."""
    rows = len(temperatures)
    distribution = Distribution(logits, Shaping(temperatures, [-1] * rows, [1.0] * rows))
    race = Race.of(stream_keys(torch.tensor(streams), torch.tensor(places)), logits.shape[-1])
    tokens = distribution.draw(race)
    logprobs = distribution.logprobs(tokens[:, None])[:, 0]
    finite = distribution.finite
    return tokens.where(finite, -1).tolist(), logprobs.where(finite, NAN).tolist()


Drawn = tuple[list[int], list[float]]


def both_ways(logits: Tensor, temperatures: list[float], seed: int, first: int = 0) -> tuple[Drawn, Drawn]:
    """Tokens and logprobs by C and by torch's operations."""
    rows = len(temperatures)
    streams = [stream_base(seed, sample) for sample in range(rows)]
    places = list(range(first, first + rows))
    return NativeDraw(temperatures, streams).at(logits, places), by_torch(logits, temperatures, streams, places)


def are_close(one: list[float], other: list[float]) -> bool:
    """Whether logprobs are the same, of which some may be NaN."""
    # A tiny temperature makes numbers as large as it likes of the last bit of a logit.
    return np.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


@examples(400)
@given(
    vocab=VOCABULARIES,
    temperatures=st.lists(TEMPERATURES, min_size=1, max_size=6),
    spread=st.sampled_from([0.0, 0.1, 1.0, 4.0, 30.0, 1e30]),
    odd=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2999), ODD), max_size=4),
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 100_000),
)
def test_tokens_and_logprobs_are_torchs(
    vocab: int, temperatures: list[float], spread: float, odd: list[tuple[int, int, float]], seed: int, first: int
) -> None:
    logits = numbers(len(temperatures), vocab, seed % 2**32, spread)
    for row, token, value in odd:
        logits[row % len(temperatures), token % vocab] = value
    (tokens, logprobs), (wanted, wanted_logprobs) = both_ways(logits, temperatures, seed, first)
    assert tokens == wanted
    assert are_close(logprobs, wanted_logprobs)


@pytest.mark.parametrize("vocab", [1, 280, 2048, 151_936])
def test_many_rows(vocab: int) -> None:
    rows = 1024 if vocab < 1000 else 8
    logits, temperatures = numbers(rows, vocab, vocab), ([0.7, 1.0, 0.0, 1.3] * rows)[:rows]
    (tokens, logprobs), (wanted, wanted_logprobs) = both_ways(logits, temperatures, seed=vocab)
    assert tokens == wanted
    assert are_close(logprobs, wanted_logprobs)


@pytest.mark.parametrize("value", [NAN, -NAN, INFINITY])
@pytest.mark.parametrize("place", [0, 16, 279])
def test_what_is_not_finite_spoils_its_own_row_alone(value: float, place: int) -> None:
    logits, drawing = numbers(5, 280, 1), NativeDraw([1.0, 0.5, 0.0, 1.0, 1.0], range(5))
    tokens, logprobs = drawing.at(logits, [3] * 5)
    for row in (1, 2):
        spoilt = logits.clone()
        spoilt[row, place] = value
        found, found_logprobs = drawing.at(spoilt, [3] * 5)
        assert found[row] == -1
        assert math.isnan(found_logprobs[row])
        others = [i for i in range(5) if i != row]
        assert [(found[i], found_logprobs[i]) for i in others] == [(tokens[i], logprobs[i]) for i in others]
    # What can't be drawn at all is no distribution, and what is left of one token is certain.
    logits[0], logits[1] = -INFINITY, -INFINITY
    logits[1, place] = -2.0
    found, found_logprobs = drawing.at(logits, [3] * 5)
    assert found[:2] == [-1, place]
    assert found_logprobs[1] == 0.0


def test_of_equal_tokens_the_greedy_one_is_the_first() -> None:
    logits = torch.zeros(3, 600)
    logits[1, 70:] = 1.0
    logits[2, [599, 300]] = 5.0
    tokens, logprobs = NativeDraw([0.0] * 3, range(3)).at(logits, [0] * 3)
    assert tokens == [0, 70, 300]
    # The model's own distribution, in which nothing is tempered.
    assert logprobs == pytest.approx(logits.double().log_softmax(-1)[range(3), tokens].tolist(), abs=1e-6)


def test_bits_follow_neither_threads_nor_company(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocab = 128, 523
    logits, temperatures = numbers(rows, vocab, 2), ([0.3, 1.0, 0.0] * rows)[:rows]
    places = list(range(rows))
    monkeypatch.setattr(THREADS, "free", 1)
    whole = NativeDraw(temperatures, places).at(logits, places)
    for threads in (2, 3, 7):
        monkeypatch.setattr(THREADS, "free", threads)
        assert NativeDraw(temperatures, places).at(logits, places) == whole
    for row in (0, 1, 62, 127):
        # Also where its memory begins elsewhere.
        shifted = torch.empty(vocab + 1)[1:].copy_(logits[row])
        alone = NativeDraw([temperatures[row]], [row]).at(shifted[None], [row])
        assert alone == ([whole[0][row]], [whole[1][row]])


def test_rows_need_not_lie_side_by_side() -> None:
    logits = numbers(300, 6, 4)
    drawing = NativeDraw([1.0] * 6, range(6))
    assert drawing.at(logits.t(), [0] * 6) == drawing.at(logits.t().contiguous(), [0] * 6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    draws, logits = 40_000, torch.tensor([1.0, -0.5, 0.0, 2.0, -3.0, 0.3])
    # Half of them in a second bucket.
    wide = torch.full((259,), -INFINITY)
    wide[[0, 7, 255, 256, 257, 258]] = logits
    streams = [stream_base(11, sample) for sample in range(draws)]
    tokens, _ = NativeDraw([temperature] * draws, streams).at(wide.expand(draws, -1), [5] * draws)
    found = torch.bincount(torch.tensor(tokens), minlength=259)[[0, 7, 255, 256, 257, 258]]
    assert int(found.sum()) == draws
    expected = draws * (logits.double() / temperature).softmax(-1)
    # The 99.99th percentile of chi-square with five degrees of freedom.
    assert float(((found - expected) ** 2 / expected).sum()) < 25.7


@pytest.mark.parametrize("settings", [{}, {"batch_invariant": True}, {"dtype": "float64"}])
def test_samples_are_those_of_torch(settings: dict[str, str | bool], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_in_c: list[int] = []
    whole = NativeDraw.at

    def noted(self: NativeDraw, logits: Tensor, positions: list[int]) -> tuple[list[int], list[float]]:
        drawn_in_c.append(len(positions))
        return whole(self, logits, positions)

    monkeypatch.setattr(NativeDraw, "at", noted)
    found: list[list[tuple[list[int], list[float] | None]]] = []
    for native_kernels in (True, False):
        drawn_in_c.clear()
        engine = load_engine(checkpoint("llama"), native_kernels=native_kernels, **settings)  # pyright: ignore
        engine.load_sampler("base", None)
        work = [
            make_job("base", random_prompt(5 + 7 * i, i), 3, seed=i, max_tokens=20, temperature=temperature)
            for i, temperature in enumerate((1.0, 0.0, 0.7, 1.5))
        ]
        answers = [s for _, response in samples(engine, work) for s in response.sequences]
        found.append([(s.tokens, s.logprobs) for s in answers])
        assert bool(drawn_in_c) == (native_kernels and not settings)
    assert [tokens for tokens, _ in found[0]] == [tokens for tokens, _ in found[1]]
    for (_, a), (_, b) in zip(*found, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=2e-5)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.5}, {"topk_sample_logprobs": 2}, {}])
def test_what_wants_more_goes_by_torch(options: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[bool] = []
    whole = Drawing.next

    def noted(self: Drawing, logits: Tensor) -> object:
        chosen.append(isinstance(self._source, NativeDraw))
        return whole(self, logits)

    monkeypatch.setattr(Drawing, "next", noted)
    engine = load_engine(checkpoint("llama"))
    engine.load_sampler("base", None)
    list(samples(engine, [make_job("base", [1, 2, 3], **options), make_job("base", [1, 2])]))
    assert set(chosen) == {not options}


def test_it_is_used_only_where_it_gives_what_torch_gives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = usual_draw._agrees.__wrapped__
    assert again()
    assert not draws_here(torch.zeros(1, 2, dtype=torch.float64))
    monkeypatch.setattr(NativeDraw, "at", lambda self, logits, positions: ([0, 0, 0, 0], [NAN] * 4))
    assert not again()
    assert "the draw in C computes something else here" in caplog.text
