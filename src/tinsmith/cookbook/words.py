"""Words for letter tasks: a list written for this project, made-up words, and splits that cannot overlap.

The split of a word is a function of the word alone, so whoever draws a held-out word gets one that no training set,
the one of the embedded model included, has seen.
"""

import hashlib
from functools import cache
from importlib.resources import files
from random import Random
from typing import Literal

Split = Literal["train", "held_out"]

MIN_LENGTH, MAX_LENGTH = 2, 14


def _each(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Syllables of English, roughly: made-up words have to look like words, or a model could tell them apart.
_STARTS = _each(
    "b c d f g h j k l m n p q r s t v w x y z bl br ch cl cr dr fl fr gl gr pl pr sh sk sl sm sn sp st str"
)
_VOWELS = _each("a e i o u a e i o u ai ea ee ie oo ou y")
_ENDS = _each("b ck d f g k l ll m n n nd ng nt p r r rd s ss st t th x z")


def split_of(text: str, held_out: float = 0.1) -> Split:
    """The split that `text` belongs to, by a hash of its lower-case form; `held_out` is the share of that split."""
    # A hash and not a list: the split of a word that nobody has thought of yet is known, too. `person` keeps it ours.
    digest = hashlib.blake2b(text.lower().encode(), digest_size=8, person=b"tinsmith").digest()
    return "held_out" if int.from_bytes(digest, "big") < held_out * 2**64 else "train"


@cache
def english_words() -> tuple[str, ...]:
    """All words of the list, sorted, lower case, one to fourteen letters."""
    return tuple(files("tinsmith.cookbook").joinpath("data/words.txt").read_text(encoding="utf-8").split())


def words(split: Split) -> list[str]:
    """The words of the list that belong to `split`, sorted."""
    return [word for word in english_words() if split_of(word) == split]


def pseudo_word(rng: Random, length: int | None = None) -> str:
    """A made-up word that can be pronounced, of `length` letters (drawn from 2..14 when not given).

    Raises ValueError for a length outside 2..14.
    """
    if length is None:
        length = rng.randint(MIN_LENGTH, MAX_LENGTH)
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise ValueError(f"length: got {length}, expected {MIN_LENGTH} <= length <= {MAX_LENGTH}")
    # One in five begins with a vowel, which pig latin moves like any other letter.
    word = "" if rng.random() < 0.8 else rng.choice(_VOWELS)
    while len(word) < length:
        word += rng.choice(_STARTS) + rng.choice(_VOWELS)
        if rng.random() < 0.4:
            word += rng.choice(_ENDS)
    return word[:length]


def pseudo_words(count: int, split: Split, seed: int) -> list[str]:
    """`count` different made-up words of `split`; the same seed gives the same words."""
    rng = Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        word = pseudo_word(rng)
        if split_of(word) == split:
            found[word] = None
    return list(found)
