"""One problem, and the rows that people write it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinsmith.cookbook.grading import gsm8k_answer, has_boxed, math_answer
from tinsmith.cookbook.grading.grader import MAX_LENGTH
from tinsmith.cookbook.rows.formats.own_form import SYSTEMS
from tinsmith.cookbook.rows.formats.row_keys import settle_keys_of_question
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

# The first of each that a row has is taken.
QUESTIONS = ("problem", "question", "prompt")
ANSWERS = ("answer", "solution")
KINDS = ("kind", "subject", "type")


class Problem(NamedTuple):
    """A problem.

    Attributes:
        problem: what is asked.
        answer: the right answer alone, as it stands in a box.
        kind: which sort of problem it is, for metrics of its own; empty where nobody says.
    """

    problem: str
    answer: str
    kind: str = ""


def read_problem(row: Any, notes: RowNotes | None = None) -> Problem:
    """Read a row.

    The question is `problem`, `question` or `prompt`; the answer `answer`, else `solution`; the kind `kind`, `subject`
    or `type`. Of an answer that ends with `#### 72`, as those of GSM8K do, 72 is taken; of one with a box, as those of
    MATH have it, what stands in the last box. A `solution` has to have one or the other.

    Args:
        row: of a data set.
        notes: takes the keys that nothing is done with.

    Raises:
        UserError: a field is missing, empty, no text (an answer may be a number), or too long to be graded; or the row
            says more than a question and its answer, which would be left out.
    """
    if not isinstance(row, Mapping):
        raise invalid("row", row, 'an object with "problem" and "answer"')
    asked, answered = _first(row, QUESTIONS), _first(row, ANSWERS)
    _check_keys(row, asked, notes or RowNotes())
    return Problem(_text(row, asked), _answer(row, answered), _kind(row))


def _check_keys(row: Mapping[str, Any], asked: str, notes: RowNotes) -> None:
    for key in (*SYSTEMS, "messages", "tools", "functions"):
        if row.get(key):
            raise invalid(key, row[key], f"none beside {asked}: only the question is asked")
    for key in QUESTIONS:
        if row.get(key) is not None and row[key] != row[asked]:
            raise invalid(key, row[key], f"none beside {asked}, or the same text")
    settle_keys_of_question(row, (*QUESTIONS, *ANSWERS, *KINDS), notes)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        raise invalid("row", sorted(map(str, row)), f"one of {', '.join(names)}")
    return found


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise invalid(field, value, "a text that is not empty")
    return value.strip()


def _answer(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = _text(row, field)
    if "####" in text:
        text = gsm8k_answer(text)
    elif field == "solution" or has_boxed(text):
        text = math_answer(text)
    if len(text) > MAX_LENGTH:
        raise invalid(field, f"{len(text)} characters", f"the answer alone, at most {MAX_LENGTH}")
    return text


def _kind(row: Mapping[str, Any]) -> str:
    found = (row.get(name) for name in KINDS)
    return next((value.strip() for value in found if isinstance(value, str) and value.strip()), "")
