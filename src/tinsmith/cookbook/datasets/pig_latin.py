"""Pig latin as the course has it: the first letter goes to the end, then "ay": hello → ellohay, apple → ppleaay.

Words are real ones from the project's list and made-up ones, so that the skill learned is not a list. Which split a
word belongs to is a function of the word alone (`cookbook.words.split_of`), so no training set holds a test word.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable
from pathlib import Path
from random import Random
from typing import Any

from tinsmith.cookbook.words import MAX_LENGTH, Split, pseudo_word, split_of, words
from tinsmith.types.errors import UserError, invalid

# Share of made-up words in a drawn set.
_MADE_UP = 0.5


def pig_latin(word: str) -> str:
    """Return a word in pig latin: its first letter moved to the end, then "ay"."""
    return f"{word[1:]}{word[:1]}ay"


def prompt(word: str) -> str:
    """Return what the user says to have a word translated."""
    return f"translate: {word}"


def row(word: str) -> dict[str, Any]:
    """Return the conversation of one word."""
    return {
        "messages": [
            {"role": "user", "content": prompt(word)},
            {"role": "assistant", "content": pig_latin(word)},
        ]
    }


def rows(chosen: Iterable[str]) -> list[dict[str, Any]]:
    """Return the conversations of words."""
    return [row(word) for word in chosen]


def draw_words(split: Split, count: int, seed: int = 0, exclude: Collection[str] = ()) -> list[str]:
    """Draw words of a split: half of them real (as far as the list reaches), the others made up, 1 to 14 letters.

    Args:
        split: `train` or `held_out`.
        count: how many; all different.
        seed: the same seed gives the same words in the same order.
        exclude: words that must not be drawn, e.g. the ones somebody will test with.
    """
    rng = Random(f"{split}-{seed}")
    unwanted = {word.lower() for word in exclude}
    real = [word for word in (*words(split), *string.ascii_lowercase) if word not in unwanted]
    # Single letters are words here, and some are on the list as well: each once.
    real = [word for word in dict.fromkeys(real) if split_of(word) == split]
    rng.shuffle(real)
    chosen = dict.fromkeys(real[: round(count * (1 - _MADE_UP))])
    # What the list does not have is made up, however many that are.
    while len(chosen) < count:
        word = pseudo_word(rng, rng.randint(2, MAX_LENGTH))
        if split_of(word) == split and word not in unwanted:
            chosen[word] = None
    drawn = list(chosen)
    rng.shuffle(drawn)
    return drawn


def read_words(path: str | Path) -> list[str]:
    """Read somebody's words, one per line; capitals are folded, empty lines skipped, repeated words kept once.

    Raises:
        UserError: no such file, no words, or a line that is no word of letters a to z; names file and line.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise invalid("eval", str(path), f"a file of words that can be read ({error.strerror})") from error
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        try:
            word = line.decode("utf-8-sig").strip().lower()
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: got bytes that are not UTF-8, expected one word") from None
        if not word:
            continue
        if not (word.isascii() and word.isalpha() and len(word) <= MAX_LENGTH):
            raise UserError(
                f"{path}, line {number}: got {word!r}, expected one word of 1 to {MAX_LENGTH} letters a to z"
            )
        found[word] = None
    if not found:
        raise invalid("eval", str(path), "a file with at least one word")
    return list(found)
