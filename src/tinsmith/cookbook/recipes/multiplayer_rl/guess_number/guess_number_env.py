"""Guess the number: every reply says which way to go."""

from __future__ import annotations

import math

from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_env import Reply, SearchEnv, number_in

RULES = (
    "You guess a whole number. After every guess you are told whether it is too low or too high. Find the number in "
    'as few guesses as you can. Reply with "Guess: " and a number, and nothing else.'
)
_FORMS = (r"guess: *(\d{1,9})\b",)


class GuessNumberEnv(SearchEnv):
    """A secret number; what is narrowed down is the logarithm of how many numbers are left open.

    Args:
        secret: the number.
        highest: it lies between 1 and this.
        max_guesses: guesses of a game.
        wasted_cost: as in `SearchEnv`.
        rules: as in `GameEnv`.
    """

    turns = "guesses"

    def __init__(
        self, secret: int, highest: int, max_guesses: int, *, wasted_cost: float = 0.0, rules: str | None = None
    ) -> None:
        super().__init__(max_guesses, wasted_cost=wasted_cost, rules=rules)
        self._secret = secret
        self._highest = highest
        # What the replies leave open.
        self._low, self._high = 1, highest

    def opening(self) -> str:
        """Return the question."""
        return f"I picked a number from 1 to {self._highest}. Guess it."

    async def reply_to(self, said: str) -> Reply:
        """Return which way to go."""
        guess = number_in(said, _FORMS)
        if guess is None:
            return Reply('That is no number. Say "Guess: " and a number.', wasted=True)
        if guess == self._secret:
            return Reply("Correct.", found=True)
        wasted = not self._low <= guess <= self._high
        if guess < self._secret:
            self._low = max(self._low, guess + 1)
            return Reply("Too low.", wasted=wasted)
        self._high = min(self._high, guess - 1)
        return Reply("Too high.", wasted=wasted)

    def narrowed(self) -> float:
        """Return 1 - log(numbers that are open) / log(all numbers)."""
        return 1 - math.log(self._high - self._low + 1) / math.log(self._highest)
