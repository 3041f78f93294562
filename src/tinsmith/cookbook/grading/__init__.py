"""Grading of mathematical answers, decided once, in the table of `docs/math-answers.md`.

What a recipe takes: `boxes` (where the answer stands), `grader` (right or wrong) and `reasons` (why), `references` (the
answers of data sets). What a text is: `cleaning`, `numbers`, `units`, `splitting`, `reading`, into `forms`, which
`matching` compares. In worker processes: `pool`, `worker`, `expressions`, `algebra`.
"""

from tinsmith.cookbook.grading.boxes import extract_boxed, has_boxed
from tinsmith.cookbook.grading.grader import grade, grade_async, safe_grade, safe_grade_async
from tinsmith.cookbook.grading.reasons import Grade, Reason
from tinsmith.cookbook.grading.references import gsm8k_answer, math_answer
from tinsmith.cookbook.installed import require

# A run should end before it begins, and not where the first answer needs algebra.
require(("math_verify", "sympy"), "envs", "grading")

__all__ = [
    "Grade",
    "Reason",
    "extract_boxed",
    "grade",
    "grade_async",
    "gsm8k_answer",
    "has_boxed",
    "math_answer",
    "safe_grade",
    "safe_grade_async",
]
