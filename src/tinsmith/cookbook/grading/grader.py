"""Grading an answer: what exact numbers and texts decide is decided here, the rest by sympy in a worker process."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from tinsmith.cookbook.grading import pool
from tinsmith.cookbook.grading.forms import Relation
from tinsmith.cookbook.grading.matching import match
from tinsmith.cookbook.grading.reading import read
from tinsmith.cookbook.grading.reasons import Grade, Reason
from tinsmith.types.errors import invalid

# Characters. The longest answers of MATH have about 150.
MAX_LENGTH = 1000
# Of processor time; few answers need a tenth of one.
SECONDS = 2.0
_MAX_SECONDS = 3600


def safe_grade(given: str | None, reference: str, seconds: float = SECONDS) -> bool:
    """Return whether an answer is right; `grade` says why.

    Args:
        given: what stands in the box, as `extract_boxed` returns it; None, no answer, is wrong.
        reference: the right answer.
        seconds: most processor time that a worker may take for it.

    Raises:
        UserError: an argument is no text, or no time.
        RuntimeError: the workers do not start.
    """
    return grade(given, reference, seconds).correct


async def safe_grade_async(given: str | None, reference: str, seconds: float = SECONDS) -> bool:
    """`safe_grade` for an event loop, which goes on while a worker computes."""
    return (await grade_async(given, reference, seconds)).correct


def grade(given: str | None, reference: str, seconds: float = SECONDS) -> Grade:
    """Grade an answer against the right one, as the table in `docs/math-answers.md` says.

    Numbers, words, and tuples, lists and intervals of these are compared at once and exactly. Where algebra is needed,
    a worker process compares. Whatever an answer is, however long it is and whatever it does to a worker, it is graded
    and nothing is raised. Any thread may call this.

    Args:
        given: what stands in the box, as `extract_boxed` returns it; None, no answer, is wrong.
        reference: the right answer.
        seconds: most processor time that a worker may take for it (ten times as much by the clock); then it is killed,
            and the answer is wrong.

    Raises:
        UserError: an argument is no text, or no time.
        RuntimeError: the workers do not start.
    """
    decided = _decide(given, reference, seconds)
    return Grade(decided if isinstance(decided, Reason) else decided.result())


async def grade_async(given: str | None, reference: str, seconds: float = SECONDS) -> Grade:
    """`grade` for an event loop, which goes on while a worker computes; hundreds may wait at a time."""
    decided = _decide(given, reference, seconds)
    return Grade(decided if isinstance(decided, Reason) else await asyncio.wrap_future(decided))


class _Undecided(Exception):
    """Algebra is needed."""


class _NoAlgebra:
    """Stands in for algebra here, where there is no sympy. Both it and a worker go through the same `match`."""

    def same(self, given: str, reference: str) -> bool:
        raise _Undecided

    def same_relation(self, given: Relation, reference: Relation) -> bool:
        raise _Undecided


def _decide(given: str | None, reference: str, seconds: float) -> Reason | Future[Reason]:
    if not isinstance(reference, str):
        raise invalid("reference", reference, "a text")
    if not (given is None or isinstance(given, str)):
        raise invalid("given", given, "a text, or None for no answer")
    if not 0 < seconds <= _MAX_SECONDS:
        raise invalid("seconds", seconds, f"above 0, at most {_MAX_SECONDS}")
    reason = _decide_here(given, reference)
    # The type checker does not see that `_decide_here` leaves a text only.
    return reason or pool.ask(str(given), reference, seconds)


def _decide_here(given: str | None, reference: str) -> Reason | None:
    if given is None or not given.strip():
        return Reason.NO_ANSWER
    if len(given) > MAX_LENGTH:
        return Reason.TOO_LONG
    if not reference.strip() or len(reference) > MAX_LENGTH:
        return Reason.BAD_REFERENCE
    if given == reference:
        return Reason.EQUAL
    try:
        return Reason.EQUAL if match(read(given), read(reference), _NoAlgebra()) else Reason.DIFFERENT
    except _Undecided:
        return None
