"""A general set for the embedded model: what it could do before it was tuned, asked on words that it never trained on.

A dozen of its skills, each by rule, so that what fine-tuning makes it forget can be measured offline. Every row is a
conversation that ends with the right answer; `skill` says which kind it is.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tinsmith.cookbook.words import pseudo_word, split_of, words

_Turns = list[dict[str, Any]]

# The skills that `scripts/tiny` trains the embedded model on, and words that it was not trained on.
# Asked as `QUESTION: word` or in a sentence, and answered with a word.
_LETTERS: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "copy": (("copy: {}", "Repeat the word {}."), str),
    "reverse": (("reverse: {}", "Spell {} backwards."), lambda word: word[::-1]),
    "drop_first": (("drop the first letter: {}", "Remove the first letter of {}."), lambda word: word[1:]),
    "drop_last": (("drop the last letter: {}", "Remove the last letter of {}."), lambda word: word[:-1]),
    "first_letter": (("first letter: {}", "What is the first letter of {}?"), lambda word: word[0]),
    "upper": (("upper case: {}", "Write {} in capital letters."), str.upper),
    "spell": (("spell with dashes: {}", "Spell {} with dashes."), "-".join),
    "count": (("count the letters: {}", "How many letters are in {}?"), lambda word: str(len(word))),
}
_THINGS = {
    "animal": ("cat", "dog", "horse", "lion", "mouse"),
    "food": ("bread", "cheese", "apple", "soup", "carrot"),
    "tool": ("hammer", "saw", "drill", "rake", "needle"),
    "vehicle": ("car", "bus", "train", "ship", "truck"),
    "color": ("red", "blue", "green", "black", "pink"),
    "clothes": ("hat", "coat", "sock", "glove", "scarf"),
}
_MOODS = {"positive": ("great", "lovely", "superb", "perfect"), "negative": ("awful", "boring", "nasty", "dreadful")}
_SUBJECTS = ("soup", "film", "room", "book", "trip", "song", "weather")
_COURTESIES = {
    "Hello": "Hello! How can I help you?",
    "Thank you": "You are welcome.",
    "How are you?": "I am fine, thank you.",
    "Goodbye": "Goodbye!",
}


def rows(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` rows, every skill equally often; the same seed gives the same rows."""
    rng = Random(f"general-{seed}")
    skills = [*_LETTERS, *_DRAWERS]
    found = []
    for index in range(count):
        # In turn and not at random, so that a small set has all of them.
        skill = skills[index % len(skills)]
        messages = _letter_task(rng, skill) if skill in _LETTERS else _DRAWERS[skill](rng)
        found.append({"messages": messages, "skill": skill})
    return found


def _turns(question: str, answer: str, **more: Any) -> _Turns:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]


def _word(rng: Random) -> str:
    # Half real, half made up: a list learned by heart must not look like a skill.
    if rng.random() < 0.5:
        return rng.choice([word for word in words("held_out") if len(word) > 2])
    while split_of(word := pseudo_word(rng, rng.randint(3, 9))) != "held_out":
        pass
    return word


def _letter_task(rng: Random, skill: str) -> _Turns:
    phrasings, change = _LETTERS[skill]
    word = _word(rng)
    return _turns(rng.choice(phrasings).format(word), change(word))


def _category(rng: Random) -> _Turns:
    kind = rng.choice(tuple(_THINGS))
    return _turns(f"category: {rng.choice(_THINGS[kind])}", kind)


def _sentiment(rng: Random) -> _Turns:
    mood = rng.choice(tuple(_MOODS))
    return _turns(f"sentiment: The {rng.choice(_SUBJECTS)} was {rng.choice(_MOODS[mood])}.", mood)


def _courtesy(rng: Random) -> _Turns:
    return _turns(*rng.choice(tuple(_COURTESIES.items())))


def _lookup(rng: Random) -> _Turns:
    values = {_word(rng): _word(rng) for _ in range(rng.randint(2, 4))}
    key = rng.choice(tuple(values))
    context = "; ".join(f"{name}={value}" for name, value in values.items())
    return _turns(f"Context: {context}\nQuestion: value of {key}?", values[key])


def _thought_sum(rng: Random) -> _Turns:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    ones = a % 10 + b % 10
    carry = ones // 10
    tens = a // 10 + b // 10 + carry
    # The ones first, then the tens and what is carried: the way in which the model was taught to add.
    thought = f"{a % 10}+{b % 10}={ones}. {a // 10}+{b // 10}{'+1' if carry else ''}={tens}."
    return [
        {"role": "system", "content": "Think first."},
        *_turns(f"What is {a} + {b}?", str(a + b), reasoning_content=thought),
    ]


_DRAWERS: dict[str, Callable[[Random], _Turns]] = {
    "category": _category,
    "sentiment": _sentiment,
    "courtesy": _courtesy,
    "lookup": _lookup,
    "thought_sum": _thought_sum,
}
