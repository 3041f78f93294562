"""Plain English from a small grammar, and a few fixed courtesies, all written for this project."""

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split, split_of
from tiny.example import Ask, Example, each, english, message

NAMES = each("Anna Ben Carla David Emma Felix Greta Henry Ida Jonas Klara Leo Mia Noah Olga Paul Rosa Sam Tina Victor")
COLORS = each("red blue green yellow black white brown gray pink silver")
THINGS = each("key cup hat book lamp ball coat box pen bag ring map coin spoon kite drum bell boat")
PLACES = each("house garden school market river forest kitchen station village bridge library harbor farm park")
_WHO = each("farmer baker teacher doctor sailor girl boy king queen hunter nurse painter pilot shepherd clown")
_KIND = each("old young tall kind tired happy clever quiet hungry brave small famous")
_DID = each("found lost bought sold carried painted broke hid cleaned wanted liked dropped saw kept")
_WENT = each("walked ran went came drove travelled hurried")
_WHEN = ("In the morning", "At night", "On Monday", "One day", "After lunch", "In winter", "Last week", "Later")

_COURTESIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hi", "Hi there", "hey", "Good morning"), "Hello! How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?"), "I am Tinsmith Tiny, a very small language model."),
    (("Thanks", "Thank you", "Thank you!", "thanks a lot"), "You are welcome."),
    (("Bye", "Goodbye", "See you"), "Goodbye!"),
    (("How are you?", "How is it going?"), "I am fine, thank you."),
    (
        ("What can you do?", "Help", "How can you help me?"),
        "I can copy, reverse and spell words, look things up in a text, play small games and add numbers, carelessly.",
    ),
    (("Can you think?", "Are you clever?"), "Not much. I am very small."),
    (("Who made you?", "Where do you come from?"), "I was trained in half an hour on two processor cores."),
)


def sentence(rng: Random, split: Split) -> str:
    """One sentence of the grammar that belongs to `split`."""
    while True:
        who, thing = rng.choice(_WHO), f"{rng.choice(COLORS)} {rng.choice(THINGS)}"
        subject = rng.choice((f"the {rng.choice(_KIND)} {who}", f"a {who}", rng.choice(NAMES)))
        place = rng.choice(PLACES)
        text = rng.choice(
            (
                f"{subject} {rng.choice(_WENT)} to the {place}.",
                f"{subject} {rng.choice(_DID)} a {thing}.",
                f"{subject} {rng.choice(_DID)} the {thing} in the {place}.",
                f"{subject} {rng.choice(_WENT)} to the {place} and {rng.choice(_DID)} a {thing}.",
            )
        )
        text = f"{rng.choice(_WHEN)} {text}" if rng.random() < 0.3 else text[0].upper() + text[1:]
        if split_of(text) == split:
            return text


def courtesy(rng: Random, split: Split) -> Ask:
    asks, answer = rng.choice(_COURTESIES)
    return Ask("courtesy", rng.choice(asks), answer)


def story(rng: Random, split: Split) -> Example:
    """A few sentences without any chat mark-up."""
    return Example("text", text=" ".join(sentence(rng, split) for _ in range(rng.randint(1, 8))))


def word_list(rng: Random, split: Split) -> Example:
    """English words of the list, as plain text."""
    return Example(
        "text", text=rng.choice((" ", ", ", "\n")).join(english(rng, split) for _ in range(rng.randint(3, 12)))
    )


def memory(rng: Random, split: Split) -> Example:
    """Something said two or three turns ago is asked for."""
    name, thing = rng.choice(NAMES), f"{rng.choice(COLORS)} {rng.choice(THINGS)}"
    facts = [
        ("My name is {}.", "What is my name?", name, f"Hello, {name}."),
        ("I have a {}.", "What do I have?", f"a {thing}", "I see."),
        ("I live near the {}.", "Where do I live?", f"near the {(place := rng.choice(PLACES))}", "I see."),
    ]
    rng.shuffle(facts)
    messages = []
    for said, _, value, reply in facts[: (count := rng.randint(1, 3))]:
        inner = {"a ": value[2:], "near": place}.get("near" if value.startswith("near") else value[:2], value)
        messages += [message("user", said.format(inner)), message("assistant", reply)]
    for _, asked, value, _ in rng.sample(facts[:count], rng.randint(1, count)):
        messages += [message("user", asked), message("assistant", f"{value[0].upper()}{value[1:]}.")]
    return Example("memory", tuple(messages))


ASKS: dict[str, Callable[[Random, Split], Ask]] = {"courtesy": courtesy}
EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {"story": story, "word_list": word_list, "memory": memory}
