"""Final answers of reference solutions."""

from __future__ import annotations

import pytest

from tinsmith.cookbook.grading import gsm8k_answer, math_answer, safe_grade
from tinsmith.types.errors import UserError


@pytest.mark.row(74)
def test_gsm8k() -> None:
    solution = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nTogether 48+24 = <<48+24=72>>72 clips.\n#### 72"
    assert gsm8k_answer(solution) == "72"
    assert gsm8k_answer("She pays $1,234,567.\n####  1,234,567  \n") == "1234567"
    assert gsm8k_answer("#### 1\nno:\n#### -2.5\nthat is all") == "-2.5"
    assert safe_grade("\\$1,234,567", gsm8k_answer("#### 1,234,567"))


@pytest.mark.parametrize("text", ["", "72", "#### ", "####\n72", "### 72"])
def test_gsm8k_without_an_answer(text: str) -> None:
    with pytest.raises(UserError, match=r'text: got .*, expected a solution with a line "#### ANSWER"'):
        gsm8k_answer(text)


def test_math() -> None:
    assert math_answer(r"Since $x^2 = 2$, we get $x = \boxed{\sqrt{2}}$.") == r"\sqrt{2}"
    assert math_answer(r"First \boxed{1}, at last $\boxed 2$.") == "2"
    with pytest.raises(UserError, match=r"solution: got .*, expected a solution whose last"):
        math_answer(r"So it is \boxed{2")
