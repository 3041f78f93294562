"""Whether a newcomer finds room, and who gives way."""

from __future__ import annotations

from tests.engine.sampling.places.cases import Cache


def test_a_free_place_that_another_is_due_is_left_to_it() -> None:
    cache = Cache(places=4, blocks=40)
    cache.run("ann", 0)
    cache.run("ann", 1)
    cache.wait("bob", 2, samples=9)
    cache.begin()
    assert cache.room.free_places == 2
    # Each is due two of four: both free ones are for bob, however many he asks for.
    assert (cache.room.places_for("ann"), cache.room.places_for("bob")) == (0, 2)


def test_a_place_that_nobody_else_waits_for_is_anybodys() -> None:
    cache = Cache(places=4, blocks=40)
    for order in range(3):
        cache.run("ann", order)
    cache.run("bob", 3)
    cache.running.pop()
    cache.begin()
    assert cache.room.places_for("ann") == 1


def test_the_youngest_of_who_has_most_gives_its_place_to_who_lacks_one() -> None:
    cache = Cache(places=4, blocks=40)
    held = [cache.run("ann", order) for order in (5, 8, 6, 7)]
    cache.wait("bob", 9)
    cache.begin()
    assert cache.room.who_leaves_a_place("bob") == [held[1]]
    assert cache.room.who_leaves_a_place("ann") is None


def test_nobody_leaves_where_a_place_is_free() -> None:
    cache = Cache(places=4, blocks=40)
    cache.run("ann", 0)
    cache.wait("bob", 1)
    cache.begin()
    assert cache.room.who_leaves_a_place("bob") == []


def test_blocks_come_from_who_has_more_than_its_part() -> None:
    cache = Cache(places=8, blocks=12)
    held = [cache.run("ann", order, blocks=3) for order in range(4)]
    cache.wait("bob", 9)
    cache.begin()
    assert cache.room.who_leaves_blocks("bob", 4, [], []) == [held[3], held[2]]
    # Down to what ann is due, six blocks, and no further.
    assert cache.room.who_leaves_blocks("bob", 7, [], []) is None


def test_those_that_leave_already_are_counted() -> None:
    cache = Cache(places=8, blocks=12)
    held = [cache.run("ann", order, blocks=3) for order in range(4)]
    cache.wait("bob", 9)
    cache.begin()
    already = [held[1]]
    assert cache.room.who_leaves_blocks("bob", 3, [], already) == [held[1]]
    assert cache.room.who_leaves_blocks("bob", 4, [], already) == [held[1], held[3]]
    assert already == [held[1]]


def test_nobodys_last_sequence_gives_way() -> None:
    cache = Cache(places=8, blocks=12)
    cache.run("ann", 0, blocks=12)
    cache.wait("bob", 9)
    cache.begin()
    assert cache.room.who_leaves_blocks("bob", 1, [], []) is None


def test_an_owner_takes_from_others_only_up_to_what_it_is_due() -> None:
    cache = Cache(places=8, blocks=12)
    for order in range(3):
        cache.run("ann", order, blocks=2)
    cache.run("bob", 5, blocks=6)
    cache.begin()
    assert cache.room.who_leaves_blocks("bob", 1, [], []) is None


def test_a_running_sequence_gets_its_block_from_the_youngest_of_who_holds_most() -> None:
    cache = Cache(places=8, blocks=12)
    cache.run("ann", 0, blocks=4)
    youngest_of_ann = cache.run("ann", 1, blocks=4)
    cache.run("bob", 2, blocks=2)
    cache.run("bob", 3, blocks=2)
    cache.begin()
    assert cache.room.who_leaves_a_block() is youngest_of_ann


def test_the_oldest_of_all_never_gives_a_block() -> None:
    cache = Cache(places=8, blocks=12)
    cache.run("ann", 0, blocks=11)
    other = cache.run("bob", 1, blocks=1)
    cache.begin()
    assert cache.room.who_leaves_a_block() is other
