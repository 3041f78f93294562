"""Comparisons of two answers to "sort: WORD": the letters in order, and an answer with a slip.

Letters have changed places, one became another, one was forgotten, or one came twice. So neither the longer answer nor
any single letter says which one is preferred. Words are made up; the split of a word is a function of the word alone,
and no comparison of one split asks for a word of the other.
"""

from __future__ import annotations

import string
from random import Random
from typing import Any

from tinsmith.cookbook.words import Split, pseudo_word, split_of

SHORTEST, LONGEST = 4, 7


def prompt(word: str) -> str:
    """Return what the user says to have a word's letters sorted."""
    return f"sort: {word}"


def right_answer(word: str) -> str:
    """Return the letters of a word in alphabetical order."""
    return "".join(sorted(word))


def quality(word: str, answer: str) -> float:
    """Return what an answer is worth by rule, whatever a reward model thinks of it: 1 for the letters in order."""
    return float(answer.strip() == right_answer(word))


def draw_words(split: Split, count: int, seed: int = 0) -> list[str]:
    """Draw different words of a split that are not sorted already; the same seed gives the same words."""
    rng = Random(f"sorted letters {split} {seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        word = pseudo_word(rng, rng.randint(SHORTEST, LONGEST))
        if split_of(word) == split and word != right_answer(word):
            found[word] = None
    return list(found)


def rows(split: Split, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return comparisons `{"prompt", "chosen", "rejected"}`, each of another word, by seed."""
    return [row(word, Random(f"sorted letters {word} {seed}")) for word in draw_words(split, count, seed)]


def row(word: str, rng: Random) -> dict[str, Any]:
    """Return a comparison of two answers to one word; `word` is kept beside them, for `quality`."""
    right = right_answer(word)
    # A slip may leave the answer right: two equal letters that changed places.
    while (wrong := rng.choice(_SLIPS)(right, rng)) == right:
        pass
    return {"prompt": prompt(word), "chosen": right, "rejected": wrong, "word": word}


def _out_of_order(right: str, rng: Random) -> str:
    letters = list(right)
    for _ in range(rng.randint(1, 3)):
        first, second = rng.sample(range(len(letters)), 2)
        letters[first], letters[second] = letters[second], letters[first]
    return "".join(letters)


def _another_letter(right: str, rng: Random) -> str:
    letters = list(right)
    for _ in range(rng.randint(1, 2)):
        letters[rng.randrange(len(letters))] = rng.choice(string.ascii_lowercase)
    # In order: that it is sorted does not make it right.
    return "".join(sorted(letters))


def _forgotten(right: str, rng: Random) -> str:
    place = rng.randrange(len(right))
    return right[:place] + right[place + 1 :]


def _twice(right: str, rng: Random) -> str:
    place = rng.randrange(len(right))
    return right[: place + 1] + right[place:]


# The last two equally often, so that the longer of two answers is as often the wrong one as the right one.
_SLIPS = (_out_of_order, _another_letter, _forgotten, _twice)
