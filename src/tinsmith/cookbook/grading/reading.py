"""From the text of an answer to its form. `docs/math-answers.md` is this file in a table."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from tinsmith.cookbook.grading.cleaning import clean, compact
from tinsmith.cookbook.grading.forms import Equation, Form, Group, Relation, Value, Words
from tinsmith.cookbook.grading.numbers import Number, read_number
from tinsmith.cookbook.grading.splitting import in_brackets, split
from tinsmith.cookbook.grading.units import split_unit

# Deeper brackets than an answer has, and far from Python's own limit.
_MAX_DEPTH = 10

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_AND = re.compile(r"\\text ?\{ ?,? ?(?:and|or) ?,? ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_COMMAS = re.compile(r",(?: ?,)+")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])")
_WRAPPED = re.compile(r"\\text ?(?=\{)")
_MATRIX = re.compile(r"\\begin ?\{([pbB]?matrix)\}(.*)\\end ?\{\1\}")
# 120_8 is no number with an index, and 3:45 no quotient: such are compared as texts.
_LITERAL = re.compile(r"[0-9A-F]+_(?:[0-9]+|\{[0-9]+\})|[0-9]+(?::[0-9]+)+")
_BOUND = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9' -]*")
_WORD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{3,}(?![A-Za-z0-9])|^[Nn][Oo]$")
_FUNCTION = re.compile(r"(?<![A-Za-z])(?:sqrt|sin|cos|tan|log|exp|pi|ln)(?![A-Za-z])")
# x, AB, Area, f(x), (x, y), x_1, \theta, \angle ABC; but not xy, which is a product.
_LABEL = re.compile(
    r"(?:\([A-Za-z](?: ?, ?[A-Za-z])+\)|\\text ?\{[A-Za-z ]+\}|\\(?:vec|hat|bar|overline) ?\{[A-Za-z]+\}"
    r"|\\angle ?[A-Z]{1,3}"
    r"|\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega)"
    r"|[A-Z]{2,4}|[A-Za-z][a-z]{3,}|[A-Za-z])(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9, ]+\}))?'{0,3}(?: ?\([A-Za-z, ]+\))?"
)
_KINDS = {r"\{\}": "set", r"\langle\rangle": "<>"}
_LESS, _GREATER = {"<": "<", r"\le": "<="}, {">": "<", r"\ge": "<="}
_INTEGERS = Value(r"\mathbb{Z}")


# Every answer to a problem is compared with the same reference, and a model that learns says the same again and again.
@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """Read an answer of bounded length. Whatever is not understood is a `Value`, which algebra may understand."""
    # Most answers of most runs; the way below comes to the same.
    if _PLAIN.fullmatch(text):
        return Value(text, Number(Fraction(text)))
    cleaned = _COMMAS.sub(",", _AND.sub(",", clean(text)))
    return _read(cleaned, 0)


def _read(text: str, depth: int) -> Form:
    text, in_text = _unwrap(text)
    value = _value(text)
    if value.number is not None or not text or depth > _MAX_DEPTH:
        return value
    inner = depth + 1
    return (
        _list(text, inner)
        or _relation(text, inner)
        or _union(text, inner)
        or _brackets(text, inner)
        or _matrix(text, inner)
        or _both_signs(text, inner)
        or _words(text, in_text)
        or value
    )


def _unwrap(text: str) -> tuple[str, bool]:
    in_text = False
    for _ in range(_MAX_DEPTH):
        text = text.strip()
        wrapped = _WRAPPED.match(text)
        whole = in_brackets(text[wrapped.end() :] if wrapped else text)
        if whole is None or whole[0] != "{":
            break
        text, in_text = whole[1], in_text or wrapped is not None
    return text, in_text


def _value(text: str) -> Value:
    body, factor, unit = split_unit(text)
    number = read_number(body.strip())
    if number is not None:
        value = number.value * factor
        return Value(compact(body) if factor == 1 else str(value), number._replace(value=value), unit)
    # Other words make a text of it, unless they are a unit of measure.
    known = unit is not None and unit.known and factor == 1 and body.strip() != ""
    return Value(compact(body), None, unit) if known else Value(compact(text))


def _list(text: str, depth: int) -> Form | None:
    if not any(bracket in text for bracket in "([{"):
        text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    found = split(text, ",;")
    if found is None or len(found[0]) == 1 or "" in found[0]:
        return None
    items = [_read(part, depth) for part in found[0]]
    # "n = 3k, k an integer" says nothing that n = 3k does not.
    items = [item for item in items if not (isinstance(item, Equation) and item.members == (_INTEGERS,))] or items
    if len(items) == 1:
        return items[0]
    labels = {item.label for item in items if isinstance(item, Equation)}
    values = [item.members[0] for item in items if isinstance(item, Equation) and len(item.members) == 1]
    # "x < 1 or x > 3" is a union.
    if len(labels) == 1 and len(values) == len(items) and all(isinstance(v, Group) and v.ordered for v in values):
        return Equation(labels.pop(), (Group("union", tuple(values)),))
    return Group("list", tuple(items))


def _relation(text: str, depth: int) -> Form | None:
    found = split(text, ("=", r"\ne", r"\in", *_LESS, *_GREATER))
    if found is None or not found[1] or "" in found[0]:
        return None
    sides, signs = found
    label = _label(sides[0])
    if set(signs) == {"="} or (signs == [r"\in"] and label):
        if label is None and len(sides) == 2 and _label(sides[1]):
            label, sides = _label(sides[1]), sides[::-1]
        return Equation(label, tuple(_read(side, depth) for side in (sides[1:] if label else sides)))
    if set(signs) <= set(_GREATER):
        sides, signs = sides[::-1], [_GREATER[sign] for sign in signs[::-1]]
    elif set(signs) <= set(_LESS):
        signs = [_LESS[sign] for sign in signs]
    elif signs == [r"\ne"]:
        return Relation(compact(sides[0]), "!=", compact(sides[1]))
    else:
        return None
    return _interval(sides, signs, depth)


def _interval(sides: list[str], signs: list[str], depth: int) -> Form | None:
    """Read sides in rising order as an interval of the one that is a name, if the others are numbers."""
    names = [at for at, side in enumerate(sides) if _BOUND.search(side)]
    if len(sides) == 2 and not (len(names) == 1 and _label(sides[names[0]])):
        return Relation(compact(sides[0]), "<" if signs[0] == "<" else "<=", compact(sides[1]))
    if (len(sides) == 3 and names != [1]) or len(sides) > 3:
        return None
    at = names[0]
    lower, below = (_read(sides[at - 1], depth), signs[at - 1]) if at > 0 else (Value(r"-\infty"), "<")
    upper, above = (_read(sides[at + 1], depth), signs[at]) if at < len(signs) else (Value(r"\infty"), "<")
    kind = {"<": "(", "<=": "["}[below] + {"<": ")", "<=": "]"}[above]
    return Equation(_label(sides[at]), (Group(kind, (lower, upper)),))


def _label(text: str) -> str | None:
    return compact(text) if _LABEL.fullmatch(text) and not _FUNCTION.search(text) else None


def _union(text: str, depth: int) -> Form | None:
    found = split(text, (r"\cup",))
    if found is None or not found[1]:
        return None
    return Group("union", tuple(_read(part, depth) for part in found[0]))


def _brackets(text: str, depth: int) -> Form | None:
    if text == r"\emptyset":
        return Group("set", ())
    whole = in_brackets(text)
    if whole is None or whole[0] == "{":
        return None
    opening, inside, closing = whole
    kind = _KINDS.get(opening + closing, opening + closing)
    if kind == "set" and not inside:
        return Group(kind, ())
    # A set by a rule, {x | x > 3}, is left as it is.
    found = None if kind == "set" and ("|" in inside or ":" in inside) else split(inside, ",;")
    if found is None or "" in found[0]:
        return None
    items = tuple(_read(part, depth) for part in found[0])
    if kind == "()" and len(items) == 1:
        return items[0]
    return Group(kind, tuple(dict.fromkeys(items)) if kind == "set" else items)


def _matrix(text: str, depth: int) -> Form | None:
    found = _MATRIX.fullmatch(text)
    lines = split(found[2], (r"\\",)) if found else None
    if lines is None:
        return None
    rows = []
    for line in lines[0]:
        cells = split(line, "&")
        if cells is None:
            return None
        if line:
            rows.append(Group("row", tuple(_read(cell, depth) for cell in cells[0])))
    return Group("matrix", tuple(rows))


def _both_signs(text: str, depth: int) -> Form | None:
    if text.count(r"\pm") != 1:
        return None
    plus = text.replace(r"\pm", "+").replace(r"\mp", "-")
    minus = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return Group("list", (_read(plus, depth), _read(minus, depth)))


def _words(text: str, in_text: bool) -> Form | None:
    text = compact(text)
    if _LITERAL.fullmatch(text):
        return Words(text.replace("{", "").replace("}", ""))
    if not _WORDS.fullmatch(text) or _FUNCTION.search(text) or len(text) == 1:
        return None
    return Words(" ".join(text.casefold().split())) if in_text or _WORD.search(text) else None
