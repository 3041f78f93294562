"""Look-up: the answer stands in the text that is given."""

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split
from tiny.example import Ask, Example, distinct_words, letters, message
from tiny.prose import COLORS, NAMES, PLACES, THINGS

_SHAPES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("{k}={v}", "; ", ("value of {k}?", "What is the value of {k}?", "{k}?")),
    ("{k}: {v}", "\n", ("value of {k}?", "What is {k}?", "{k}?")),
    ("The value of {k} is {v}.", " ", ("What is the value of {k}?", "value of {k}?")),
)


def _value(rng: Random, split: Split) -> str:
    return str(rng.randint(0, 9999)) if rng.random() < 0.4 else letters(rng, split, 10)


def pairs_ask(rng: Random, split: Split, count: int | None = None, skill: str = "lookup") -> Ask:
    """Keys and values, and the value of one key; one in twelve asks for a key that is not there."""
    shape, separator, asks = rng.choice(_SHAPES)
    keys = distinct_words(rng, split, (count or rng.randint(1, 8)) + 1)
    missing = keys.pop()
    pairs = {key: _value(rng, split) for key in keys}
    key = missing if rng.random() < 0.08 else rng.choice(keys)
    context = separator.join(shape.format(k=k, v=v) for k, v in pairs.items())
    question = rng.choice(asks).format(k=key)
    return Ask(skill, f"Context: {context}\nQuestion: {question}", pairs.get(key, "not found"))


def facts_ask(rng: Random, split: Split) -> Ask:
    """Who has what, and where: sentences and a question about one of them."""
    count = rng.randint(1, 5)
    things = rng.sample([f"{color} {thing}" for color in COLORS for thing in THINGS], count)
    facts = list(zip(rng.sample(NAMES, count), things, rng.sample(PLACES, count), strict=True))
    context = " ".join(f"{name} has the {thing} in the {place}." for name, thing, place in facts)
    name, thing, place = rng.choice(facts)
    question, answer = rng.choice(
        (
            (f"Who has the {thing}?", name),
            (f"What does {name} have?", f"the {thing}"),
            (f"Where is {name}?", f"in the {place}"),
        )
    )
    return Ask("facts", f"Context: {context}\nQuestion: {question}", answer)


def long_lookup(rng: Random, split: Split) -> Example:
    """Fifteen to thirty pairs, up to about 900 tokens."""
    ask = pairs_ask(rng, split, rng.randint(15, 28), "lookup_long")
    return Example(ask.skill, (message("user", ask.question), message("assistant", ask.answer)))


ASKS: dict[str, Callable[[Random, Split], Ask]] = {"lookup": pairs_ask, "facts": facts_ask}
EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {"lookup_long": long_lookup}
