"""Shaping a distribution and drawing from it, against plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.sampling.drawing.distribution import Distribution, Shaping
from tinsmith.engine.sampling.drawing.race import Race
from tinsmith.engine.sampling.drawing.randomness import stream_base, stream_keys

# Few distinct values, so that ties are common; halves, so that sums of probabilities are compared away from rounding.
LOGITS = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=1, max_size=40)
ROW = st.tuples(
    st.sampled_from([0.0, 0.25, 0.7, 1.0, 1.9]),
    st.sampled_from([-1, 1, 2, 3, 7, 1000]),
    st.sampled_from([1e-9, 0.113, 0.517, 0.9031, 1.0]),
)


def all_logprobs(distribution: Distribution, vocab: int) -> torch.Tensor:
    """Return the logprobs of every token, float64 [S, V]."""
    return distribution.logprobs(torch.arange(vocab).expand(len(distribution.finite), -1))


def race(keys: torch.Tensor, logits: torch.Tensor) -> Race:
    """Return the random numbers of a draw from logits [S, V]."""
    return Race.of(keys, logits.shape[-1])


def untouched(rows: int) -> Shaping:
    return Shaping([1.0] * rows, [-1] * rows, [1.0] * rows)


def plain_distribution(logits: list[float], temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Return probabilities: sort by (likeliest, lowest id), cut at k, then at the nucleus of what is left."""
    x = np.asarray(logits, np.float64) / (temperature or 1.0)
    p = np.exp(x - x.max())
    p /= p.sum()
    if temperature == 0:
        return p
    order = sorted(range(len(p)), key=lambda i: (-logits[i], i))
    if top_k > 0:
        order = order[:top_k]
    total, kept, mass = sum(p[i] for i in order), [], 0.0
    for i in order:
        kept.append(i)
        mass += p[i] / total
        if top_p < 1 and mass >= top_p:
            break
    q = np.zeros_like(p)
    q[kept] = p[kept]
    return q / q.sum()


@examples(300)
@given(st.data())
def test_shaping_equals_the_plain_reference(data: st.DataObject) -> None:
    rows = data.draw(st.lists(ROW, min_size=1, max_size=5))
    width = data.draw(st.integers(1, 40))
    logits = [
        data.draw(st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=width, max_size=width)) for _ in rows
    ]
    shaping = Shaping(*(list(column) for column in zip(*rows, strict=True)))
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        got = all_logprobs(Distribution(torch.tensor(logits, dtype=dtype), shaping), width)
        assert got.dtype == torch.float64
        for own, row, logprobs in zip(logits, rows, got.numpy(), strict=True):
            np.testing.assert_allclose(np.exp(logprobs), plain_distribution(own, *row), rtol=error, atol=1e-300)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 0.9999999])
def test_wide_nucleus(top_p: float) -> None:
    # Wider than the first look at the likeliest tokens, in one row only.
    generator = torch.Generator().manual_seed(0)
    logits = torch.stack([torch.randn(5000, generator=generator), 9 * torch.randn(5000, generator=generator)])
    got = all_logprobs(Distribution(logits, Shaping([1.0, 1.0], [-1, 4000], [top_p, top_p])), 5000).exp().numpy()
    np.testing.assert_allclose(got[0], plain_distribution(logits[0].tolist(), 1.0, -1, top_p), rtol=1e-6)
    np.testing.assert_allclose(got[1], plain_distribution(logits[1].tolist(), 1.0, 4000, top_p), rtol=1e-6)


def test_a_tiny_temperature_leaves_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -2.0]])
    got = Distribution(logits, Shaping([1e-320], [-1], [1.0]))
    assert set(got.draw(race(torch.arange(1), logits)).tolist()) <= {1, 2}
    assert all_logprobs(got, 4)[0].exp().tolist() == pytest.approx([0, 0.5, 0.5, 0])


def test_greedy_takes_the_lowest_of_the_likeliest_and_the_models_own_logprobs() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    shaping = Shaping([0.0, 0.0], [2, -1], [0.5, 1.0])
    greedy = Distribution(logits, shaping)
    keys = torch.tensor([1, 2])
    assert greedy.draw(None).tolist() == [1, 0]
    torch.testing.assert_close(all_logprobs(greedy, 4), logits.double().log_softmax(-1))
    assert Distribution(logits, Shaping([0.0, 1.0], [-1, 1], [1.0, 1.0])).draw(race(keys, logits)).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vocab", [3, 256, 257, 1500])
def test_draws_follow_the_distribution(vocab: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logprobs = (1.5 * torch.randn(vocab, generator=generator, dtype=torch.float64)).log_softmax(-1)
    n = 30_000
    keys = stream_keys(torch.full((n,), stream_base(11, 0)), torch.arange(n))
    counts = torch.zeros(vocab, dtype=torch.float64)
    for some in keys.split(4000):
        drawn = Distribution(logprobs.to(dtype).expand(len(some), -1), untouched(len(some))).draw(race(some, logprobs))
        counts += torch.bincount(drawn, minlength=vocab)
    expected = n * logprobs.exp()
    likely = expected > 20
    # Pearson's statistic has mean d and variance 2d; the rare tokens count as one cell.
    seen = torch.cat([counts[likely], counts[~likely].sum()[None]])
    mean = torch.cat([expected[likely], expected[~likely].sum()[None]])
    keep = mean > 0
    statistic = ((seen - mean)[keep] ** 2 / mean[keep]).sum().item()
    freedom = int(keep.sum()) - 1
    assert abs(statistic - freedom) < 6 * math.sqrt(2 * freedom)


def test_draws_never_leave_the_support() -> None:
    logprobs = torch.full((64, 700), -torch.inf, dtype=torch.float64)
    logprobs[:, [5, 300, 699]] = math.log(1 / 3)
    keys = stream_keys(torch.full((64,), stream_base(0, 0)), torch.arange(64))
    assert set(Distribution(logprobs, untouched(64)).draw(race(keys, logprobs)).tolist()) == {5, 300, 699}


@pytest.mark.row(209)
def test_a_draw_depends_on_its_own_row_only() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 400, generator=generator)
    shaping = Shaping([0.5 + i / 40 for i in range(40)], [-1, 5] * 20, [1.0, 0.9, 0.7, 1.0] * 10)
    keys = stream_keys(torch.tensor([stream_base(i, 0) for i in range(40)]), torch.arange(40))
    together = Distribution(logits, shaping).draw(race(keys, logits))
    for i in range(40):
        own = Shaping([shaping.temperature[i]], [shaping.top_k[i]], [shaping.top_p[i]])
        alone = Distribution(logits[i : i + 1], own).draw(race(keys[i : i + 1], logits))
        assert alone.item() == together[i].item()


@pytest.mark.row(209)
def test_noise_in_the_logits_hardly_ever_changes_a_draw() -> None:
    # Noise as other batch shapes give, made a thousand times larger to be seen; an inverse CDF for comparison.
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(500, 20_000, generator=generator)
    noisy = logits * (1 + 1e-3 * torch.randn(logits.shape, generator=generator))
    keys = stream_keys(torch.tensor([stream_base(1, 0)] * 500), torch.arange(500))
    uniform = torch.rand(500, 1, generator=generator, dtype=torch.float64)
    raced, inverted = [], []
    for x in (logits, noisy):
        raced.append(Distribution(x, untouched(500)).draw(race(keys, x)))
        inverted.append(torch.searchsorted(x.double().softmax(-1).cumsum(-1), uniform))
    flips = int((raced[0] != raced[1]).sum())
    assert flips <= 4
    assert int((inverted[0] != inverted[1]).sum()) > 10 * max(flips, 4)


@examples(200)
@given(LOGITS, st.integers(1, 40))
def test_the_likeliest_are_in_order_and_ties_go_to_the_lower_id(row: list[float], k: int) -> None:
    logits = torch.tensor([[0.0] * len(row), row], dtype=torch.float64)
    ids, values = Distribution(logits, untouched(2)).likeliest(k, [1])
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    assert ids[0].tolist() == order
    np.testing.assert_allclose(values[0].numpy(), logits[1].log_softmax(-1)[order].numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_told_and_change_no_other(bad: float) -> None:
    generator = torch.Generator().manual_seed(4)
    sound = torch.randn(2, 300, generator=generator)
    broken = sound[:1].clone()
    broken[:, 7:] = bad
    broken[:, :7] = min(bad, 0.0) if math.isinf(bad) else bad
    shaping = Shaping([0.7, 0.7, 0.0], [5, 5, -1], [0.9, 0.9, 1.0])
    got = Distribution(torch.cat([sound[:1], broken, sound[1:]]), shaping)
    assert got.finite.tolist() == [True, False, True]
    keys = torch.tensor([3, 4, 5])
    drawn = got.draw(race(keys, sound))
    assert bool(((drawn >= 0) & (drawn < 300)).all())
    alone = Distribution(sound, Shaping([0.7, 0.0], [5, -1], [0.9, 1.0]))
    assert drawn[[0, 2]].tolist() == alone.draw(race(keys[[0, 2]], sound)).tolist()
    ids, values = got.likeliest(4, [0, 1, 2])
    for found, wanted in zip((ids[[0, 2]], values[[0, 2]]), alone.likeliest(4), strict=True):
        assert found.tolist() == wanted.tolist()
