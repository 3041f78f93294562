"""Letter tasks: copy, reverse, drop, append, case, spell, count, sort.

Moving the first letter to the end, the heart of pig latin, is left out on purpose; `mixture` checks it.
"""

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split
from tiny.example import Ask, distinct_words, letters
from tiny.prose import sentence

# For each skill: what it does to a word, and how people ask for it.
_PLAIN: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "copy": (str, ("copy: {w}", "repeat: {w}", "Repeat the word {w}.", "echo {w}", "Say {w}.", "Write '{w}'.")),
    "reverse": (
        lambda w: w[::-1],
        ("reverse: {w}", "Reverse the word {w}.", "Spell {w} backwards.", "Write '{w}' backwards."),
    ),
    "drop_first": (
        lambda w: w[1:],
        ("drop the first letter: {w}", "Remove the first letter of {w}.", "What is '{w}' without its first letter?"),
    ),
    "drop_last": (
        lambda w: w[:-1],
        ("drop the last letter: {w}", "Remove the last letter of {w}.", "What is '{w}' without its last letter?"),
    ),
    "first_letter": (
        lambda w: w[:1],
        ("first letter: {w}", "What is the first letter of {w}?", "Which letter does '{w}' start with?"),
    ),
    "last_letter": (
        lambda w: w[-1:],
        ("last letter: {w}", "What is the last letter of {w}?", "Which letter does '{w}' end with?"),
    ),
    "upper": (str.upper, ("upper case: {w}", "Write {w} in capital letters.", "shout: {w}")),
    "capitalize": (str.capitalize, ("capitalize: {w}", "Write '{w}' with a capital first letter.")),
    "double": (lambda w: "".join(c + c for c in w), ("double every letter: {w}", "Double each letter of {w}.")),
    "twice": (lambda w: f"{w} {w}", ("twice: {w}", "Say {w} twice.")),
    "sort": (lambda w: "".join(sorted(w)), ("sort: {w}", "Sort the letters of {w}.")),
    "count_letters": (lambda w: str(len(w)), ("count the letters: {w}", "How many letters are in {w}?")),
}
_SUFFIXES = ("ay", "ing", "ed", "er", "s", "ly", "ness", "est", "y", "ish")
_PREFIXES = ("un", "re", "pre", "in", "over", "a", "be")
_SEPARATORS = {"dashes": "-", "spaces": " ", "commas": ",", "dots": "."}


def _plain(skill: str) -> Callable[[Random, Split], Ask]:
    change, phrasings = _PLAIN[skill]

    def draw(rng: Random, split: Split) -> Ask:
        word = letters(rng, split)
        while not change(word):
            word = letters(rng, split)
        if rng.random() < 0.04:
            word = rng.choice((str.upper, str.capitalize))(word)
        return Ask(skill, rng.choice(phrasings).format(w=word), change(word))

    return draw


def lower(rng: Random, split: Split) -> Ask:
    word = letters(rng, split)
    return Ask("lower", rng.choice(("lower case: {w}", "Write {w} in small letters.")).format(w=word.upper()), word)


def append(rng: Random, split: Split) -> Ask:
    word, suffix = letters(rng, split), rng.choice(_SUFFIXES) if rng.random() < 0.5 else letters(rng, split, 4)
    asks = ("append '{s}' to {w}", "append {s}: {w}", "Add '{s}' to the end of {w}.", "Put {s} after {w}.")
    return Ask("append", rng.choice(asks).format(w=word, s=suffix), word + suffix)


def prepend(rng: Random, split: Split) -> Ask:
    word, prefix = letters(rng, split), rng.choice(_PREFIXES) if rng.random() < 0.5 else letters(rng, split, 4)
    asks = ("put '{p}' before {w}", "prepend {p}: {w}", "Add '{p}' to the front of {w}.")
    return Ask("prepend", rng.choice(asks).format(w=word, p=prefix), prefix + word)


def spell(rng: Random, split: Split) -> Ask:
    word, name = letters(rng, split), rng.choice(tuple(_SEPARATORS))
    asks = ("spell with {n}: {w}", "Spell {w} with {n}.")
    if name == "dashes":
        asks += ("spell: {w}", "Spell the word {w}.")
    return Ask("spell", rng.choice(asks).format(w=word, n=name), _SEPARATORS[name].join(word))


def join(rng: Random, split: Split) -> Ask:
    word = letters(rng, split)
    spelled = rng.choice(tuple(_SEPARATORS.values())).join(word)
    return Ask("join", rng.choice(("join: {w}", "Join the letters {w}")).format(w=spelled), word)


def copy_text(rng: Random, split: Split) -> Ask:
    """Several words, or letters beyond a to z, at most about 80 characters."""
    kind = rng.random()
    if kind < 0.5:
        text = sentence(rng, split)
    elif kind < 0.85:
        text = " ".join(distinct_words(rng, split, rng.randint(2, 6)))
    else:
        text = (
            "".join(rng.choices("áàâäçéèêëíïñóôöøßúüœ€ 0123456789-_/.:ABCDEFxyz", k=rng.randint(3, 16))).strip() or "é"
        )
    return Ask("copy_text", rng.choice(("copy: {t}", "repeat: {t}", "Repeat this: {t}")).format(t=text), text)


def last_word(rng: Random, split: Split) -> Ask:
    """The first or last word of a few, or the words in reverse order."""
    items = distinct_words(rng, split, rng.randint(2, 5))
    which, answer = rng.choice(
        (("first word", items[0]), ("last word", items[-1]), ("words in reverse order", " ".join(items[::-1])))
    )
    return Ask("words", f"{which}: {' '.join(items)}", answer)


ASKS: dict[str, Callable[[Random, Split], Ask]] = {
    **{skill: _plain(skill) for skill in _PLAIN},
    "lower": lower,
    "append": append,
    "prepend": prepend,
    "spell": spell,
    "join": join,
    "copy_text": copy_text,
    "words": last_word,
}
