"""Who waits for a place, and who of them is next."""

from __future__ import annotations

from tests.engine.sampling.places.cases import sequence
from tinsmith.engine.sampling.places.waiting import Waiting


def test_the_oldest_is_next_whatever_order_they_came_in() -> None:
    waiting = Waiting()
    young, old = sequence("ann", 7), sequence("ann", 3)
    waiting.add(young)
    waiting.add(old)
    assert waiting.next_of("ann", []) is old
    waiting.discard(old)
    assert waiting.next_of("ann", []) is young


def test_weights_with_fewer_places_are_next() -> None:
    waiting = Waiting()
    many, few = sequence("ann", 1, version=1), sequence("ann", 2, version=2)
    waiting.add(many)
    waiting.add(few)
    assert waiting.next_of("ann", []) is many
    assert waiting.next_of("ann", [sequence("ann", 0, version=1)]) is few
    # What others hold of the same weights is not counted.
    assert waiting.next_of("ann", [sequence("bob", 0, version=1)]) is many


def test_an_owner_without_sequences_is_not_there() -> None:
    waiting = Waiting()
    one, never_added = sequence("ann", 1), sequence("bob", 2)
    waiting.add(one)
    waiting.discard(never_added)
    assert (list(waiting.owners()), len(waiting)) == (["ann"], 1)
    waiting.discard(one)
    assert (list(waiting.owners()), len(waiting)) == ([], 0)
    assert waiting.next_of("ann", []) is None


def test_samples_that_have_not_begun_want_a_place_too() -> None:
    waiting = Waiting()
    waiting.add(sequence("ann", 1, version=1, samples=4))
    waiting.add(sequence("ann", 2, version=2))
    assert waiting.places_wanted("ann") == 5
    assert waiting.places_wanted("bob") == 0
