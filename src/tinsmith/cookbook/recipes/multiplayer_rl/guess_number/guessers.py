"""Simple ways of guessing a number."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.recipes.multiplayer_rl.simple_players import Player


def counting_up(highest: int, rng: Random) -> Player:
    """Say 1, 2, 3, ..."""
    return _guesses(highest, lambda low, high: low)


def any_open_number(highest: int, rng: Random) -> Player:
    """Say any number that the replies leave open."""
    return _guesses(highest, rng.randint)


def halving(highest: int, rng: Random) -> Player:
    """Say the middle of what is left: binary search, than which nothing is better where all numbers are as likely."""
    return _guesses(highest, lambda low, high: (low + high) // 2)


def _guesses(highest: int, choose: Callable[[int, int], int]) -> Player:
    low, high = 1, highest
    while True:
        guess = choose(low, high)
        reply = yield f"Guess: {guess}"
        low, high = (guess + 1, high) if "low" in reply else (low, guess - 1)
