"""What is decided at once is what a worker would have decided; whatever an answer is, it is graded."""

from __future__ import annotations

import asyncio
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from tests.cookbook.grading.page import lines
from tinsmith.cookbook.grading import Reason, extract_boxed, grade, has_boxed, safe_grade, safe_grade_async
from tinsmith.cookbook.grading.algebra import SympyAlgebra
from tinsmith.cookbook.grading.grader import MAX_LENGTH, _decide_here
from tinsmith.cookbook.grading.reading import read
from tinsmith.cookbook.grading.worker import judge
from tinsmith.types.errors import UserError

# What is asked for where algebra is needed, so that answers go all the way to a worker.
REFERENCE = r"x + \sqrt{2}"


@pytest.mark.row(86)
def test_the_slide_s_problem_is_graded_right() -> None:
    sample = "Let me calculate: 15 * 23 = 345. Therefore \\boxed{345}"
    assert has_boxed(sample)
    assert safe_grade(extract_boxed(sample), "345")
    assert not safe_grade(extract_boxed(sample.replace("345}", "340}")), "345")
    assert not safe_grade(extract_boxed("I do not know."), "345")


def test_what_is_decided_here_is_decided_alike_in_a_worker() -> None:
    algebra = SympyAlgebra()
    decided = 0
    for line in lines():
        here = _decide_here(line.answer, line.reference)
        if here is not None:
            assert judge(line.answer, line.reference, algebra) is here, line
            decided += 1
    assert decided > 150


def test_nothing_of_what_arithmetic_needs_goes_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.cookbook.grading.pool.ask", None)
    for answer in ("345", "340", "1,000", "3/4", "0.75", r"\frac{3}{4}", "15*23", "9**9**9", "5 or 6", "five", "x=345"):
        assert grade(answer, "345").correct is (answer in ("345", "x=345"))


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_spellings_of_a_number_are_the_same_and_those_of_another_are_not(top: int, bottom: int) -> None:
    value = Fraction(top, bottom)
    spellings = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", f"x = {top}/{bottom}", rf"${top} / {bottom}$"]
    if bottom == 1:
        spellings = [
            str(top),
            f"{top:,}",
            f"{top}.0",
            f"{top:,}".replace(",", "{,}"),
            rf"\text{{{top}}}",
            f"n = {top:,}.",
        ]
    reference = spellings[0] if value.denominator > 1 or bottom == 1 else str(value)
    for spelling in spellings:
        # A division that comes out whole is left undone.
        assert safe_grade(spelling, reference) is not (value.denominator == 1 and bottom > 1)
        assert not safe_grade(spelling, str(value + 1))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4))
def test_a_short_way_for_plain_numbers_comes_to_the_same(value: object) -> None:
    text = str(value)
    assert read(text) == read(f" {text} ") == read(f"${text}$")


@given(st.text(max_size=300))
def test_any_text_equals_itself_or_is_none(text: str) -> None:
    assert safe_grade(text, text) is bool(text.strip())


@given(st.text(max_size=60), st.sampled_from(["345", REFERENCE, "(1, 2)", r"\text{yes}", "x = 3", "2x + y > 3"]))
def test_any_text_is_graded(text: str, reference: str) -> None:
    assert grade(text, reference).reason in set(Reason)
    assert grade(reference, text).reason in set(Reason)


PIECES = [*"xyei()[]{}+-*/^_!|=<>,;:.'\" 0179", r"\frac", r"\sqrt", r"\pm", r"\sin", r"\log", r"\text{", r"\{", r"\}"]
PIECES += [
    r"\le",
    r"\cup",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\\",
    "&",
    r"\circ",
    r"\%",
    r"\sum_",
    r"\int",
    r"\pi",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_scraps_of_latex_are_graded(text: str) -> None:
    assert grade(text, REFERENCE, seconds=20).reason is not Reason.BAD_REFERENCE


HOSTILE = {
    "a megabyte of braces": "{" * 10**6,
    "a box of a megabyte": "{}" * 500_000,
    "a tower of powers": "9**9**9",
    "a tower in LaTeX": "10^{10^{10}}",
    "powers of powers": "(((x^{999}+1)^{999}+1)^{999}+1)^{999}",
    "factorials": "9!!!!",
    "factorials in brackets": "(((9!)!)!)!",
    "a binomial": r"\binom{10^{9}}{10^{8}}",
    "an exponent": "1e999999999",
    "fractions in fractions": r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
    "a few fractions in fractions": r"\frac{" * 80 + "1" + "}{2}" * 80,
    "brackets in brackets": "(" * 499 + "x" + ")" * 499,
    "bars": "|" * 900,
    "commas": "1," * 500,
    "words for a regular expression": "a a a a a a a a a a a a a a a a a a a!" * 20,
    "numbers for a regular expression": "1 000 " * 150 + "!",
    "an endless sum": r"\sum_{k=1}^{10^{9}} \sin(k^k)",
    "an integral": r"\int_0^1 e^{e^{e^{x}}} dx",
    "a NUL": "1\x00",
    "half a character": "\ud800",
    "half a character in mathematics": "\\sqrt{2} + \udfff",
    "digits of another script": "٣٤٥",
    "code": "__import__('os').system('touch hostile')",
    "code for math-verify": r"\sum x.__class__.__import__('os').system('touch hostile')",
}


@pytest.mark.row(85)
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_answer_is_wrong_and_the_next_is_graded(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert extract_boxed(f"\\boxed{{{answer}}}") in (answer, None)
    assert not grade(answer, "345").correct
    assert not grade(answer, REFERENCE, seconds=0.3).correct
    assert safe_grade(r"\sqrt{2} + x", REFERENCE)
    assert os.listdir(tmp_path) == []


def test_reasons_are_told_apart() -> None:
    assert grade(None, "345").reason is Reason.NO_ANSWER
    assert grade(" \n", "345").reason is Reason.NO_ANSWER
    assert grade("1" * (MAX_LENGTH + 1), "345").reason is Reason.TOO_LONG
    assert grade("345", " ").reason is Reason.BAD_REFERENCE
    assert grade("345", "1" * (MAX_LENGTH + 1)).reason is Reason.BAD_REFERENCE
    assert grade(HOSTILE["powers of powers"], REFERENCE, seconds=0.3).reason is Reason.TIMEOUT


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"reference: got 345, expected a text"):
        grade("345", 345)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"given: got 345"):
        asyncio.run(safe_grade_async(345, "345"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"seconds: got 0"):
        grade("345", "345", seconds=0)


def test_what_the_page_says_of_math_verify_is_so() -> None:
    said = {"2(3)": "5", "5 6": "11", "120_8": "120", "(1, 2)": "1, 2", "e^{-100}": "e^{-101}"}
    assert all(verify(parse(f"${one}$"), parse(f"${other}$")) for one, other in said.items())
    assert not any(safe_grade(other, one) for one, other in said.items())
