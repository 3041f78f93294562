"""What part of places and blocks each owner has, and is due."""

from __future__ import annotations

from tests.engine.sampling.places.cases import Cache


def test_an_owner_is_due_its_part_among_those_that_are_there() -> None:
    cache = Cache(places=9, blocks=90)
    cache.run("ann", 0)
    cache.begin()
    assert (cache.holdings.due_places("ann"), cache.holdings.lacking("ann")) == (9, 8)
    cache.wait("bob", 1)
    cache.wait("cy", 2)
    cache.begin()
    assert cache.holdings.due_places("bob") == 3
    assert cache.holdings.due_blocks("bob") == 30.0


def test_everybody_is_due_a_place_where_there_are_more_owners_than_places() -> None:
    cache = Cache(places=2, blocks=90)
    for order, owner in enumerate(("ann", "bob", "cy")):
        cache.wait(owner, order)
    cache.begin()
    assert cache.holdings.due_places("cy") == 1


def test_who_has_most_is_known_anew_after_each_that_comes_or_goes() -> None:
    cache = Cache(places=4, blocks=90)
    last = [cache.run("ann", order) for order in range(3)][-1]
    cache.run("bob", 3)
    cache.begin()
    assert cache.holdings.most_places() == "ann"
    cache.holdings.leave(last)
    assert cache.holdings.most_places() is None


def test_an_owner_that_has_left_is_forgotten() -> None:
    cache = Cache(places=4, blocks=90)
    only = cache.run("ann", 0, blocks=2)
    cache.holdings.grow(only)
    assert cache.holdings.blocks["ann"] == 3
    only.blocks.append(cache.blocks.allocate())
    cache.holdings.leave(only)
    assert (dict(cache.holdings.places), dict(cache.holdings.blocks)) == ({}, {})
