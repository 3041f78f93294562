"""Units behind (or, for money, before) a value: 5 \\text{ cm}, 90^\\circ, 50\\%, $18, 3 hours."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from tinsmith.cookbook.grading.numbers import MULTIPLES

PERCENT = "%"

# One name, then its other spellings; an s at the end is taken off before any word is looked up.
_SPELLINGS = """
    millimeter mm millimetre | centimeter cm centimetre | meter m metre | kilometer km kilometre
    inch in inche | foot ft feet | yard yd | mile mi
    milligram mg | gram g | kilogram kg | ton tonne | ounce oz | pound lb
    milliliter ml millilitre | liter l litre | gallon gal | quart | pint | cup | acre | hectare
    second s sec | minute min | hour h hr | day | week | month | year yr
    degree deg | radian rad | dollar usd | cent | euro eur | unit | % percent pct percentage
    newton n | joule j | watt w | volt v | kelvin k | hertz hz | mile/hour mph | kilometer/hour kph kmh
"""
# Words that change a number; any others behind it say of what it is the number.
_CHANGING = """
    half halves third quarter tenth hundredth thousandth squared cubed factorial score pair negative minus plus times
    below less more not or and base to pi sqrt sin cos tan cot csc log ln exp
"""


def _singular(word: str) -> str:
    return word.removesuffix("s") or word


_NAMES = {_singular(word): names.split()[0] for names in re.split(r"[|\n]", _SPELLINGS) for word in names.split()}
_NOT_UNITS = {_singular(word) for word in _CHANGING.split()}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "¢": "cent", "%": PERCENT}

_WORD = re.compile(r"[a-z]+(?:[-.][a-z]*)*|/|%")
_POWER = r" ?(?:\^ ?(?:\{ ?([23]) ?\}|([23])))?$"
_MONEY = re.compile(r"([-+]?) ?([$€£¥]) ?")
_SIGN_BEHIND = re.compile(r" ?([$€£¥¢%])$")
_DEGREES = re.compile(r" ?\^ ?(?:\{ ?\\circ ?\}|\\circ) ?(?:\\text ?\{ ?([CFK]) ?\}|([CF]))?$")
_TEXT = re.compile(r" ?\\text ?\{([^{}]*)\}" + _POWER)
# Without \text, letters are variables: 5 m is five times m. Two letters are a unit where one is known by them, three
# and more are a word where a space stands before them.
_BARE = re.compile(r"(?<=[0-9)}\]])( ?)([A-Za-z]{2,}(?:[ /][A-Za-z]{2,})*)" + _POWER)
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


class Unit(NamedTuple):
    """A unit.

    Attributes:
        name: in the singular; `mile/hour`, `centimeter^2`, `%`, `apple`.
        known: whether it is a unit of measure, of money or of time.
    """

    name: str
    known: bool


def split_unit(text: str) -> tuple[str, int, Unit | None]:
    """Split a cleaned text into a value, a factor ("million"; 1 without such a word), and a unit, None without one."""
    if found := _MONEY.match(text):
        body, factor, unit = _split_behind(found[1] + text[found.end() :])
        return (body, factor, Unit(_SIGNS[found[2]], True)) if unit is None else (text, 1, None)
    return _split_behind(text)


def _split_behind(text: str) -> tuple[str, int, Unit | None]:
    if found := _SIGN_BEHIND.search(text):
        return text[: found.start()], 1, Unit(_SIGNS[found[1]], True)
    if found := _DEGREES.search(text):
        scale, body = found[1] or found[2], text[: found.start()]
        # \sin 30^\circ is no number of degrees.
        return (text, 1, None) if _FUNCTION.search(body) else (body, 1, Unit(f"degree {scale or ''}".strip(), True))
    if found := _TEXT.search(text):
        return _split_words(text, found.start(), found[1], found[2] or found[3])
    if found := _BARE.search(text):
        body, factor, unit = _split_words(text, found.start(), found[2], found[3] or found[4])
        bare_product = unit is not None and not unit.known and (not found[1] or len(found[2]) < 3)
        return (text, 1, None) if bare_product else (body, factor, unit)
    return text, 1, None


def _split_words(text: str, start: int, words: str, power: str | None) -> tuple[str, int, Unit | None]:
    found = [_singular(word) for word in words.replace("/", " / ").lower().split()]
    if any(word in _NOT_UNITS or not _WORD.fullmatch(word) for word in found):
        return text, 1, None
    factor = math.prod(MULTIPLES.get(word, 1) for word in found)
    return text[:start], factor, _named([word for word in found if word not in MULTIPLES], power)


def _named(words: list[str], power: str | None) -> Unit | None:
    if not words:
        return None
    names, pending = [""], ""
    known = True
    for word in words:
        if word in ("per", "/"):
            names.append("")
        elif word in _POWERS:
            pending = _POWERS[word]
        else:
            known = known and word in _NAMES
            names[-1] = f"{names[-1]} {_NAMES.get(word, word)}{pending}".strip()
            pending = ""
    return Unit("/".join(names) + (f"^{power}" if power else ""), known)
