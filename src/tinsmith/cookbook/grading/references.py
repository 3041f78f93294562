"""The answers that data sets give: behind `####` in GSM8K, in the last box of the solution in MATH."""

from __future__ import annotations

from tinsmith.cookbook.grading.boxes import extract_boxed
from tinsmith.types.errors import invalid

_GSM8K_MARK = "####"


def gsm8k_answer(text: str) -> str:
    """Return the final answer of a GSM8K solution: what stands behind the last `####`, without thousands separators.

    Raises:
        UserError: there is none; a row without an answer would make every sample wrong.
    """
    _, mark, behind = text.rpartition(_GSM8K_MARK)
    answer = behind.partition("\n")[0].replace(",", "").strip()
    if not mark or not answer:
        raise invalid("text", text[-80:], f'a solution with a line "{_GSM8K_MARK} ANSWER"')
    return answer


def math_answer(solution: str) -> str:
    """Return the final answer of a MATH solution: what stands in its last box.

    Raises:
        UserError: there is none.
    """
    answer = extract_boxed(solution)
    if answer is None:
        raise invalid("solution", solution[-80:], "a solution whose last \\boxed{...} is closed and not empty")
    return answer
