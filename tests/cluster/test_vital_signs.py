"""When a child is taken for stopped or hung, by a clock that is set by hand."""

from __future__ import annotations

from tests.support.fakes.fake_engine import FakeClock
from tinsmith.clocks import LONGEST_LOOK_S, ListeningClock
from tinsmith.cluster.vital_signs import VitalSigns


def signs_at(clock: FakeClock) -> VitalSigns:
    signs = VitalSigns(beat_s=30, stall_s=600, clock=clock)
    signs.heard()
    return signs


def test_silence() -> None:
    clock = FakeClock()
    signs = signs_at(clock)
    clock.now = 30
    assert signs.verdict() is None
    clock.now = 30.5
    assert signs.verdict() == ("stopped", "the engine process said nothing for 30 s (it was stopped or hangs)")


def test_the_first_word_may_take_longer() -> None:
    clock = FakeClock()
    signs = VitalSigns(beat_s=30, stall_s=600, clock=clock)
    clock.now = 600
    assert signs.verdict() is None
    clock.now = 601
    assert signs.verdict() == ("stopped", "the engine process said nothing for 600 s (it was stopped or hangs)")


def test_one_long_turn_is_a_stall_and_many_short_ones_or_none_are_not() -> None:
    clock = FakeClock()
    signs = signs_at(clock)
    for turn in (None, 1, 2):
        # Before the first turn it loads, for as long as it takes.
        for _ in range(59):
            clock.now += 10
            signs.heard()
            signs.beat(turn)
            assert signs.verdict() is None
    for _ in range(3):
        clock.now += 10
        signs.heard()
        signs.beat(2)
    assert signs.verdict() == ("stalled", "the engine process spent more than 600 s in one turn")


def test_loading_takes_as_long_as_it_takes() -> None:
    clock = FakeClock()
    signs = signs_at(clock)
    for _ in range(1000):
        clock.now += 10
        signs.heard()
        signs.beat(None)
    assert signs.verdict() is None


def test_nobody_is_blamed_for_the_time_in_which_this_process_was_stopped() -> None:
    source = FakeClock()
    signs = VitalSigns(beat_s=30, stall_s=600, clock=ListeningClock(source=source))
    signs.heard()
    signs.beat(1)
    source.now += 36_000
    assert LONGEST_LOOK_S < 30
    assert signs.verdict() is None
    # What the child said meanwhile is read now; the turn is still the same.
    signs.heard()
    signs.beat(1)
    assert signs.verdict() is None
