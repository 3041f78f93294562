"""Whether two expressions are equal, by sympy. For the worker processes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sympy
from sympy import Basic, Expr, Pow, Rational, log

from tinsmith.cookbook.grading.expressions import UnknownCommand, Unreadable, read_expression
from tinsmith.cookbook.grading.forms import Relation

# Two expressions in letters are compared at this many points that both are defined at, out of so many tries.
_POINTS = 5
_TRIES = 64
# A difference that is still nothing with this many digits of working precision is none.
_DIGITS = 200


class UnreadableReference(Exception):
    """The reference is no expression."""


class SympyAlgebra:
    """Compares what `Value.text` and `Relation` hold; see `matching.Algebra`.

    Raises:
        Unreadable: the given answer is no expression.
        UnreadableReference: the reference is none.
    """

    def same(self, given: str, reference: str) -> bool:
        """Return whether two expressions are equal wherever both are defined."""
        try:
            # First, so that a bad reference is told whatever is compared with it.
            other = read_expression(reference)
        except UnknownCommand:
            return _by_math_verify(given, reference)
        except Unreadable as error:
            raise UnreadableReference(reference) from error
        try:
            one = read_expression(given)
        except UnknownCommand:
            return _by_math_verify(given, reference)
        return equal(one, other)

    def same_relation(self, given: Relation, reference: Relation) -> bool:
        """Return whether one side less the other is the same in both, up to a factor (above 0 for inequalities)."""
        if given.sign != reference.sign:
            return False
        try:
            other = read_expression(reference.left) - read_expression(reference.right)
        except Unreadable as error:
            raise UnreadableReference(f"{reference.left} {reference.sign} {reference.right}") from error
        one = read_expression(given.left) - read_expression(given.right)
        symbols = one.free_symbols | other.free_symbols
        for point in _points(symbols):
            factor = sympy.simplify((other / one).xreplace(point)) if one.xreplace(point) != 0 else sympy.zoo
            if factor.is_finite and not factor.is_zero:
                positive = given.sign in ("=", "!=") or bool(factor.is_positive)
                return positive and equal(one * factor, other)
        return False


def equal(one: Expr, other: Expr) -> bool:
    """Return whether two expressions are equal: to 200 digits, and with letters in them at five random points.

    Letters stand for real numbers; points where one of the two would take the root or the logarithm of a negative
    number are left out. That is a test of identity by evaluation (Schwartz 1980, J. ACM 27(4), for polynomials).
    """
    if one == other:
        return True
    if any(value.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) for value in (one, other)):
        return False
    difference = one - other
    if difference.is_number:
        return _is_zero(difference)
    compared = 0
    for point in _points(difference.free_symbols):
        if _is_defined(one, point) and _is_defined(other, point):
            value = difference.xreplace(point)
            if not value.is_number:
                # A function that has only a name has no values.
                break
            if not _is_zero(value):
                return False
            compared += 1
            if compared == _POINTS:
                return True
    return sympy.simplify(difference) == 0


def _is_zero(value: Any) -> bool:
    parts = value.evalf(15, maxn=_DIGITS).as_real_imag()
    # Where the digits cancel at every precision, sympy returns a number without a digit that is sure (`_prec` 1).
    return all(part == 0 or (part.is_Float and part._prec == 1) for part in parts)


def _points(symbols: Iterable[Basic]) -> Iterator[dict[Basic, Rational]]:
    """Yield values for letters, the same ones in every process: above zero, below zero, above zero, of any sign."""
    numbers = random.Random(0)
    ordered = sorted(symbols, key=str)
    for at in range(_TRIES):
        negative = (0.0, 1.0, 0.0, 0.5)[at % 4]
        yield {
            symbol: Rational(numbers.randrange(1, 200), numbers.choice((7, 11, 13, 17)))
            * (-1 if numbers.random() < negative and not symbol.is_positive else 1)
            for symbol in ordered
        }


def _is_defined(value: Expr, point: Mapping[Basic, Rational]) -> bool:
    """Return whether no root and no logarithm of a negative number is taken at a point."""
    for node in value.atoms(Pow, log):
        inside = node.args[0]
        rooted = isinstance(node, log) or node.exp.is_integer is not True
        if rooted and inside.free_symbols and inside.xreplace(point).is_negative:
            return False
    return True


def _by_math_verify(given: str, reference: str) -> bool:
    """Compare what is not read here, sums and integrals and determinants, as math-verify does.

    Without its limits of time, which are signals to a handler; a worker has one without a handler.
    """
    # Most workers never need it, and it takes as long to import as sympy.
    from math_verify import LatexExtractionConfig, parse, verify

    one, other = (
        parse(f"${text}$", [LatexExtractionConfig(boxed_match_priority=-1)], "no_fallback", parsing_timeout=0)
        for text in (given, reference)
    )
    if not other:
        raise UnreadableReference(reference)
    if not one:
        raise Unreadable(given)
    return verify(other, one, float_rounding=15, numeric_precision=30, timeout_seconds=0)
