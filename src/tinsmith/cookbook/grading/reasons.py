"""What comes of grading an answer: right or wrong, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a grade is what it is; all but `EQUAL` are wrong."""

    EQUAL = "equal"
    DIFFERENT = "different"
    # There was no box, or nothing in it.
    NO_ANSWER = "no_answer"
    TOO_LONG = "too_long"
    # No expression, or one with more than one meaning.
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    # The worker ran out of memory or died, or sympy raised.
    FAILED = "failed"
    # The reference is empty, too long or no expression: a fault of the data, not of the answer.
    BAD_REFERENCE = "bad_reference"


@dataclass(frozen=True, slots=True)
class Grade:
    """A grade.

    Attributes:
        reason: why; a run may count them in its metrics.
    """

    reason: Reason

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.reason is Reason.EQUAL
