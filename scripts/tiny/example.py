"""What a skill hands over: a conversation whose last message is the answer, or a plain text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tinsmith.cookbook.words import Split, pseudo_word, split_of, words

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question and its answer, to be placed in a conversation by the mixture."""

    skill: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Example:
    """One training document. `messages` have the shape that `apply_chat_template` takes.

    `accepts` judges a model's last answer where more than one is right; None means the exact last message.
    A plain text has no messages.
    """

    skill: str
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""
    accepts: Callable[[str], bool] | None = None


def each(text: str) -> tuple[str, ...]:
    """The words of a short list written as one text."""
    return tuple(text.split())


def message(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ENGLISH: dict[Split, Sequence[str]] = {"train": words("train"), "held_out": words("held_out")}
MAX_LETTERS = 16


def letters(rng: Random, split: Split, longest: int = MAX_LETTERS) -> str:
    """A word of `split`, one to `longest` letters: made up, any letters at all, English, or few letters repeated."""
    while True:
        kind, length = rng.random(), rng.randint(1, longest)
        if kind < 0.35:
            word = pseudo_word(rng, max(2, min(length, 14)))
        elif kind < 0.70:
            word = "".join(rng.choices(_LETTERS, k=length))
        elif kind < 0.85:
            word = rng.choice(_ENGLISH[split])[:longest]
        else:
            word = "".join(rng.choices(rng.sample(_LETTERS, rng.randint(1, 3)), k=length))
        if split_of(word) == split:
            return word


def distinct_words(rng: Random, split: Split, count: int, longest: int = 8) -> list[str]:
    """`count` different words of `split`, none longer than `longest`."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[letters(rng, split, longest)] = None
    return list(found)


def english(rng: Random, split: Split) -> str:
    return rng.choice(_ENGLISH[split])
