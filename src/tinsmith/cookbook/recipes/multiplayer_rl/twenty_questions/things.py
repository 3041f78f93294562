"""A closed world of things, and what is true of each."""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": ("cat", "dog", "horse", "cow", "lion", "tiger", "mouse", "rabbit", "eagle"),
    "food": ("bread", "cheese", "apple", "soup", "cake", "rice", "egg", "banana", "carrot"),
    "tool": ("hammer", "saw", "drill", "spade", "rake", "needle", "scissors", "brush", "knife"),
    "vehicle": ("car", "bus", "train", "bicycle", "boat", "ship", "plane", "truck", "tractor"),
    "color": ("red", "blue", "green", "yellow", "black", "white", "brown", "gray", "pink"),
    "clothes": ("hat", "coat", "shirt", "sock", "shoe", "scarf", "glove", "dress", "skirt"),
}
THINGS = tuple(thing for things in CATEGORIES.values() for thing in things)

_ANIMALS, _FOOD, _TOOLS, _VEHICLES, _COLORS, _CLOTHES = (frozenset(things) for things in CATEGORIES.values())
_LARGE = _VEHICLES - {"bicycle"} | {"horse", "cow", "lion", "tiger"}
_METAL = _VEHICLES - {"boat"} | _TOOLS - {"brush"}
# What else is asked of things, in words that people ask in; each with the things of which it is true.
_ATTRIBUTES: dict[tuple[str, ...], frozenset[str]] = {
    ("alive", "living", "living thing", "living being"): _ANIMALS,
    ("mammal",): _ANIMALS - {"eagle"},
    ("bird",): frozenset({"eagle"}),
    ("pet", "common pet"): frozenset({"cat", "dog", "mouse", "rabbit"}),
    ("wild animal", "predator", "dangerous"): frozenset({"lion", "tiger", "eagle"}),
    ("farm animal",): frozenset({"horse", "cow", "rabbit"}),
    ("edible", "something you eat", "something to eat"): _FOOD,
    ("fruit",): frozenset({"apple", "banana"}),
    ("vegetable",): frozenset({"carrot"}),
    ("sweet",): frozenset({"cake", "apple", "banana"}),
    ("object", "physical object", "tangible", "solid"): frozenset(THINGS) - _COLORS - {"soup"},
    ("man-made", "manmade", "man-made object", "made by people"): _TOOLS
    | _VEHICLES
    | _CLOTHES
    | {"bread", "cheese", "soup", "cake"},
    ("big", "large", "bigger than a person", "larger than a person"): _LARGE,
    ("small", "smaller than a person", "handheld"): frozenset(THINGS) - _LARGE - _COLORS - {"bicycle"},
    ("made of metal", "metal"): _METAL,
    ("sharp",): frozenset({"saw", "drill", "needle", "scissors", "knife", "spade"}),
    ("used for transportation", "means of transport", "mode of transportation"): _VEHICLES | {"horse"},
    ("something you wear", "something to wear", "clothing", "piece of clothing", "item of clothing"): _CLOTHES,
    ("colour",): _COLORS,
}
# Questions that do not begin with "Is it".
_ABILITIES: dict[str, frozenset[str]] = {
    "can it fly": frozenset({"eagle", "plane"}),
    "does it fly": frozenset({"eagle", "plane"}),
    "can it swim": frozenset({"dog", "horse", "cow", "tiger", "boat", "ship"}),
    "can you eat it": _FOOD,
    "do you eat it": _FOOD,
    "can you wear it": _CLOTHES,
    "do you wear it": _CLOTHES,
    "can you ride it": _VEHICLES | {"horse"},
    "can you drive it": frozenset({"car", "bus", "train", "truck", "tractor"}),
    "does it have wheels": frozenset({"car", "bus", "train", "bicycle", "plane", "truck", "tractor"}),
    "does it have legs": _ANIMALS,
    "does it have four legs": _ANIMALS - {"eagle"},
    "does it have fur": _ANIMALS - {"eagle"},
    "does it have an engine": _VEHICLES - {"bicycle", "boat"},
}
_UNCOUNTED = {"bread", "cheese", "soup", "rice", "scissors", "food", "clothes", *CATEGORIES["color"]}


def with_article(noun: str) -> str:
    """Return a noun as it is asked for: "a cat", "an apple", "bread"."""
    if noun in _UNCOUNTED:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def true_of(topic: str) -> frozenset[str] | None:
    """Return the things of which a topic or an ability is true; None where it is not known.

    Args:
        topic: as `questions.topic_of` gives it, without an article: "cat", "animal", "can it fly".
    """
    return _TRUE_OF.get(topic)


_TRUE_OF: dict[str, frozenset[str]] = {
    **{thing: frozenset({thing}) for thing in THINGS},
    **{category: frozenset(things) for category, things in CATEGORIES.items()},
    **{name: things for names, things in _ATTRIBUTES.items() for name in names},
    **_ABILITIES,
}
