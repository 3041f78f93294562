"""Random numbers that are made ahead are those that each draw would have made by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.model.tiles.products import fill_up
from tinsmith.engine.sampling.drawing import race
from tinsmith.engine.sampling.drawing.race import Race, RacesAhead
from tinsmith.engine.sampling.drawing.randomness import stream_base, stream_keys

CPU = torch.device("cpu")


def alone(streams: list[int], positions: list[int], vocab_size: int, tile: int) -> Race:
    keys = stream_keys(fill_up(torch.tensor(streams), tile), fill_up(torch.tensor(positions), tile))
    return Race.of(keys, vocab_size)


@examples(60)
@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True),
    st.integers(1, 700),
    st.sampled_from([1, 64]),
    # How far the next draw is from the one before: mostly one, and now and then elsewhere.
    st.lists(st.sampled_from([1, 1, 1, 1, 1, 0, 2, -3]), min_size=1, max_size=60),
)
def test_each_draw_has_the_numbers_of_its_own_position(
    seeds: list[int], vocab_size: int, tile: int, moves: list[int]
) -> None:
    streams = [stream_base(seed, 0) for seed in seeds]
    ahead = RacesAhead(streams, vocab_size, CPU, tile)
    positions = [10 + 7 * i for i in range(len(streams))]
    for number, move in enumerate(moves):
        positions = [max(0, position + move) for position in positions]
        if number % 9 == 8:
            positions[0] += 1  # one alone
        race_ahead, race_alone = ahead.at(positions), alone(streams, positions, vocab_size, tile)
        # Rows that only fill up have numbers that nobody looks at.
        found, wanted = (each.rows(0, len(streams)) for each in (race_ahead, race_alone))
        assert race_ahead.inside.shape == race_alone.inside.shape
        # A kernel treats the last few numbers of a whole tensor otherwise, which may move a last bit; not in tiles.
        rtol = 0 if tile > 1 else 1e-14
        torch.testing.assert_close(found.buckets, wanted.buckets, rtol=rtol, atol=0)
        torch.testing.assert_close(found.inside, wanted.inside, rtol=rtol, atol=0)


def test_steps_that_follow_each_other_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        Race, "of", lambda keys, vocab_size, of=Race.of: (made.append(len(keys)), of(keys, vocab_size))[1]
    )
    ahead = RacesAhead([1, 2, 3], 300, CPU, 1)
    for position in range(31):
        ahead.at([position] * 3)
    assert made == [3, 6, 12, 24, 48]
    # Not without end: numbers of a large batch and vocabulary would outgrow what they spare.
    made.clear()
    monkeypatch.setattr(race, "_MOST_NUMBERS", 4 * 3 * (2 + 256))
    ahead = RacesAhead([1, 2, 3], 300, CPU, 1)
    for position in range(11):
        ahead.at([position] * 3)
    assert made == [3, 6, 12, 12]
