"""Whether two forms are the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from tinsmith.cookbook.grading.forms import Equation, Form, Group, Relation, Value
from tinsmith.cookbook.grading.units import PERCENT


class Algebra(Protocol):
    """What decides where texts and exact numbers do not."""

    def same(self, given: str, reference: str) -> bool:
        """Return whether two expressions are equal."""
        ...

    def same_relation(self, given: Relation, reference: Relation) -> bool:
        """Return whether two relations hold for the same values."""
        ...


def match(given: Form, reference: Form, algebra: Algebra) -> bool:
    """Return whether an answer is the reference; which of the two is which matters, see `docs/math-answers.md`.

    Args:
        given: the answer that is graded.
        reference: the right one.
        algebra: is asked where the forms leave it open; what it raises passes through.
    """
    if given == reference:
        return True
    if isinstance(reference, Equation):
        return _match_equation(given, reference, algebra)
    if isinstance(given, Equation):
        return _match_members(given, reference, algebra)
    if isinstance(given, Group) or isinstance(reference, Group):
        return _match_groups(given, reference, algebra)
    if isinstance(given, Relation) and isinstance(reference, Relation):
        return algebra.same_relation(given, reference)
    if isinstance(given, Value) and isinstance(reference, Value):
        return _match_values(given, reference, algebra)
    return False


def _match_values(given: Value, reference: Value, algebra: Algebra) -> bool:
    scales = _scales(given, reference)
    if given.text == reference.text and 1 in scales:
        return True
    if given.number is not None and reference.number is not None:
        # A whole number that is left as a division, 6/2 for 3, is the question and not the answer.
        undone = given.number.quotient and given.number.value.denominator == 1 and not reference.number.quotient
        return not undone and any(given.number.value * scale == reference.number.value for scale in scales)
    # So is a sum or a product, where a number is asked for. And two letters are two unknowns.
    letters = len(given.text) == len(reference.text) == 1
    if not scales or reference.number is not None or letters:
        return False
    return algebra.same(given.text, reference.text)


def _scales(given: Value, reference: Value) -> Sequence[Fraction | int]:
    """Return what the given number may be multiplied with to compare it, nothing where the units differ."""
    one, other = given.unit, reference.unit
    if one == other:
        return (1,)
    if one is not None and other is not None:
        return (1,) if one.name == other.name else ()
    # A unit may be left out, and may be added. A percent sign is also a factor.
    unit = one or other
    if unit is not None and unit.name == PERCENT:
        return (1, Fraction(1, 100) if one else 100)
    return (1,)


def _match_groups(given: Form, reference: Form, algebra: Algebra) -> bool:
    if isinstance(given, Group) and isinstance(reference, Group) and reference.ordered:
        same_shape = given.kind == reference.kind and len(given.items) == len(reference.items)
        return same_shape and all(
            match(one, other, algebra) for one, other in zip(given.items, reference.items, strict=True)
        )
    kinds = {form.kind if isinstance(form, Group) else "list" for form in (given, reference)}
    # A list says the same as a set; a union and a tuple are themselves.
    comparable = kinds <= {"list", "set"} or kinds == {"union"}
    return comparable and _match_any_order(_items(given), _items(reference), algebra)


def _items(form: Form) -> tuple[Form, ...]:
    return form.items if isinstance(form, Group) else (form,)


def _match_any_order(given: Sequence[Form], reference: Sequence[Form], algebra: Algebra) -> bool:
    if len(given) != len(reference):
        return False
    # "x = 1, y = 2" tells which is which, and "1, 2" does not.
    named = len({item.label for item in reference if isinstance(item, Equation)}) > 1
    left = list(reference)
    for item in given:
        if named and not isinstance(item, Equation):
            return False
        found = next((at for at, other in enumerate(left) if match(item, other, algebra)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _match_equation(given: Form, reference: Equation, algebra: Algebra) -> bool:
    value = reference.members[-1]
    solved = reference.label is not None
    named_alike = not isinstance(given, Equation) or given.label in (None, reference.label)
    if solved and named_alike and _match_members(given, value, algebra):
        return True
    # What is solved for a number must be given so: 2x = 6 is not yet x = 3.
    if solved and isinstance(value, Value) and value.number is not None:
        return False
    one, other = _as_relation(given), _as_relation(reference)
    return one is not None and other is not None and algebra.same_relation(one, other)


def _match_members(given: Form, value: Form, algebra: Algebra) -> bool:
    """Match a value: an equation does where its last member is the value and the others, x = 2 + 1 = 3, equal it."""
    if not isinstance(given, Equation):
        return match(given, value, algebra)
    *others, last = given.members
    return match(last, value, algebra) and all(_equal(other, value, algebra) for other in others)


def _equal(one: Form, other: Form, algebra: Algebra) -> bool:
    if isinstance(one, Value) and isinstance(other, Value):
        return algebra.same(one.text, other.text)
    return match(one, other, algebra)


def _as_relation(form: Form) -> Relation | None:
    if not isinstance(form, Equation):
        return None
    left = form.label or (form.members[0].text if isinstance(form.members[0], Value) else None)
    sides = form.members if form.label else form.members[1:]
    if left is None or len(sides) != 1 or not isinstance(sides[0], Value):
        return None
    return Relation(left, "=", sides[0].text)
