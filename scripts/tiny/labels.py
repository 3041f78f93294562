"""Toy classification: category of a thing, language and sentiment of a sentence."""

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split, split_of
from tiny.example import Ask, each

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": each("cat dog horse cow lion tiger mouse rabbit eagle"),
    "food": each("bread cheese apple soup cake rice egg banana carrot"),
    "tool": each("hammer saw drill spade rake needle scissors brush knife"),
    "vehicle": each("car bus train bicycle boat ship plane truck tractor"),
    "color": each("red blue green yellow black white brown gray pink"),
    "clothes": each("hat coat shirt sock shoe scarf glove dress skirt"),
}
_UNCOUNTED = {"bread", "cheese", "soup", "rice", "scissors", "food", "clothes", *CATEGORIES["color"]}
_LANGUAGES: dict[str, tuple[str, str, str, str]] = {
    # articles, nouns, verbs, adjectives
    "en": ("the my this", "house dog child water book friend", "is was looks", "small good new old here beautiful"),
    "de": ("das mein dieses", "Haus Kind Wasser Buch Tier Brot", "ist war bleibt", "klein gut neu alt hier schön"),
    "fr": (
        "le mon ce",
        "chien livre jardin pain garçon chapeau",
        "est était reste",
        "petit bon nouveau vieux ici beau",
    ),
    "es": (
        "el mi este",
        "perro libro agua niño pan sombrero",
        "es era parece",
        "pequeño bueno nuevo viejo aquí hermoso",
    ),
    "it": (
        "il mio questo",
        "cane libro pane bambino gatto giardino",
        "è era sembra",
        "piccolo buono nuovo vecchio qui bello",
    ),
}
_SENTIMENT = {
    "positive": each("great lovely wonderful excellent nice perfect delightful superb good amazing"),
    "negative": each("awful terrible bad horrible boring poor nasty dreadful ugly disappointing"),
}
_SUBJECTS = each("soup film room book trip hotel song game service coffee weather play")


def with_article(noun: str) -> str:
    """ "a cat", "an apple", "bread"."""
    if noun in _UNCOUNTED:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def category(rng: Random, split: Split) -> Ask:
    label = rng.choice(tuple(CATEGORIES))
    thing = rng.choice(CATEGORIES[label])
    asks = ("category: {}", "Which category is {}?", "What kind of thing is {}?")
    return Ask("category", rng.choice(asks).format(thing), label)


def language(rng: Random, split: Split) -> Ask:
    while True:
        label = rng.choice(tuple(_LANGUAGES))
        text = " ".join(rng.choice(part.split()) for part in _LANGUAGES[label])
        if split_of(text) == split:
            asks = ("language: {}", "Which language is this? {}", "What language is '{}'?")
            return Ask("language", rng.choice(asks).format(text), label)


def sentiment(rng: Random, split: Split) -> Ask:
    while True:
        label = rng.choice(tuple(_SENTIMENT))
        verb, degree = rng.choice(("was", "is", "seemed")), rng.choice(("", "very ", "really ", "quite "))
        text = f"The {rng.choice(_SUBJECTS)} {verb} {degree}{rng.choice(_SENTIMENT[label])}."
        if split_of(text) == split:
            return Ask(
                "sentiment", rng.choice(("sentiment: {}", "Is this positive or negative? {}")).format(text), label
            )


ASKS: dict[str, Callable[[Random, Split], Ask]] = {"category": category, "language": language, "sentiment": sentiment}
