"""What an answer is, apart from its algebra: a value, words, a list, a tuple, an equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinsmith.cookbook.grading.numbers import Number
from tinsmith.cookbook.grading.units import Unit


@dataclass(frozen=True, slots=True)
class Value:
    """A number or an expression.

    Attributes:
        text: without the unit, in one spelling.
        number: what it comes to where it is a number as people write one, and not a sum or a product.
        unit: None without one.
    """

    text: str
    number: Number | None = None
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Words: small letters, one space between them."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers in one.

    Attributes:
        kind: the brackets, for what has an order: `()`, `[)`, `row`; otherwise `list`, `set`, `union`.
        items: at least one, except for the empty set.
    """

    kind: str
    items: tuple[Form, ...]

    @property
    def ordered(self) -> bool:
        """Whether the items stand in an order that counts."""
        return self.kind not in ("list", "set", "union")


@dataclass(frozen=True, slots=True)
class Equation:
    """A chain of equals signs.

    Attributes:
        label: what the value is called, as x in x = 3; None where the first member is no name.
        members: the others; without a label at least two.
    """

    label: str | None
    members: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation, or an inequality with the greater side on the right, as two texts that algebra compares."""

    left: str
    sign: Literal["<", "<=", "=", "!="]
    right: str


Form = Value | Words | Group | Equation | Relation
