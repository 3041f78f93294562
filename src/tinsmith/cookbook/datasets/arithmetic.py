"""Sums of two numbers as problems with an answer, in a wording that the embedded model knows.

Which split a sum belongs to is a function of its two numbers alone, in either order, so no training set holds a test
sum. The embedded model has met most of the sums of both splits when it was made, and mostly with wrong answers.
"""

from __future__ import annotations

from random import Random

from tinsmith.cookbook.words import Split, split_of
from tinsmith.types.errors import invalid

HIGHEST = 49
_HELD_OUT = 0.15


def problem(a: int, b: int) -> dict[str, str]:
    """Return the row of one sum; `kind` says whether its ones carry over into the tens."""
    return {"problem": f"{a}+{b}", "answer": str(a + b), "kind": "carry" if a % 10 + b % 10 > 9 else "no_carry"}


def rows(split: Split, count: int, seed: int = 0, *, highest: int = HIGHEST) -> list[dict[str, str]]:
    """Return different sums of a split; the same seed gives the same ones in the same order.

    Args:
        split: `train` or `held_out`.
        count: how many.
        seed: of the choice and its order.
        highest: the largest number that is added.

    Raises:
        UserError: there are not so many.
    """
    sums = [(a, b) for a in range(highest + 1) for b in range(highest + 1) if _belongs(a, b, split)]
    if not 1 <= count <= len(sums):
        raise invalid("count", count, f"1 to {len(sums)}, the sums of numbers up to {highest} in split {split}")
    return [problem(a, b) for a, b in Random(f"{split}-{seed}").sample(sums, count)]


def _belongs(a: int, b: int, split: Split) -> bool:
    # Not the split that the embedded model was made with: what it never met it would have to learn from nothing.
    return split_of(f"the sum of {min(a, b)} and {max(a, b)}", _HELD_OUT) == split
