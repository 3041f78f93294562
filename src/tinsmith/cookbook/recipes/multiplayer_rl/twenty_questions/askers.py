"""Simple ways of asking for a thing."""

from __future__ import annotations

from itertools import cycle
from random import Random

from tinsmith.cookbook.recipes.multiplayer_rl.simple_players import Player
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import CATEGORIES, THINGS, with_article


def one_thing(rng: Random) -> Player:
    """Ask for one thing again and again; no thing is more often the secret than another."""
    thing = rng.choice(THINGS)
    while True:
        yield _question(thing)


def any_question(rng: Random) -> Player:
    """Ask for any category or thing, as if nothing had been asked before."""
    while True:
        yield _question(rng.choice([*CATEGORIES, *THINGS]))


def category_first(rng: Random) -> Player:
    """Ask for one category after the other, then for its things, for none of them twice."""
    categories = rng.sample(sorted(CATEGORIES), len(CATEGORIES))
    # The last one needs no question: it is the one that is left.
    while len(categories) > 1 and (yield _question(categories[0])) != "Yes.":
        categories.pop(0)
    things = rng.sample(CATEGORIES[categories[0]], len(CATEGORIES[categories[0]]))
    # Round and round: an answerer may have been wrong about the category.
    for thing in cycle(things):
        yield _question(thing)


def _question(topic: str) -> str:
    return f"Is it {with_article(topic)}?"
