"""How long the next life of an engine is waited for."""

from __future__ import annotations

from tests.support.fakes.fake_engine import FakeClock
from tinsmith.cluster.backoff import Backoff


def test_lives_that_finish_nothing_wait_longer_and_longer() -> None:
    backoff, waits = Backoff(FakeClock()), list[float]()
    for _ in range(10):
        backoff.up()
        waits.append(backoff.died())
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == 30.0


def test_a_life_that_finished_something_is_followed_at_once() -> None:
    backoff = Backoff(FakeClock())
    for _ in range(10):
        backoff.up()
        backoff.progressed()
        assert backoff.died() == 0.0
    # And nothing of earlier misfortune is left.
    backoff.died(), backoff.died()
    backoff.progressed()
    backoff.died()
    assert backoff.died() == 0.2


def test_a_minute_up_is_a_sound_life_and_a_minute_of_loading_is_not() -> None:
    clock = FakeClock()
    backoff = Backoff(clock)
    clock.now += 1000
    assert backoff.died() == 0.2
    backoff.up()
    clock.now += 61
    assert backoff.died() == 0.0


def test_lives_that_end_by_themselves_after_some_work_wait_a_little() -> None:
    backoff = Backoff(FakeClock())

    def after(from_outside: bool) -> float:
        backoff.up()
        backoff.progressed()
        return backoff.died(from_outside)

    assert [after(from_outside=False) for _ in range(6)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert after(from_outside=True) == 0.0
    assert after(from_outside=False) == 0.2
