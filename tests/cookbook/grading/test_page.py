"""Every line of the page on mathematical answers."""

from __future__ import annotations

import pytest

from tests.cookbook.grading.page import Box, Line, boxes, lines, reasons
from tinsmith.cookbook.grading import Reason, extract_boxed, grade, has_boxed


def test_the_page_is_read() -> None:
    assert len(boxes()) > 20
    assert len(lines()) > 200


@pytest.mark.row(85)
@pytest.mark.parametrize("box", boxes(), ids=lambda box: box.text)
def test_a_box(box: Box) -> None:
    assert has_boxed(box.text) == box.has
    assert extract_boxed(box.text) == box.content


@pytest.mark.row(85)
@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.reference} -> {line.answer}")
def test_an_answer(line: Line) -> None:
    expected = {"right": Reason.EQUAL, "wrong": Reason.DIFFERENT}.get(line.verdict) or Reason(line.verdict)
    found = grade(line.answer, line.reference).reason
    # On the page, wrong is wrong, for whatever reason.
    assert (found is not Reason.EQUAL) if expected is Reason.DIFFERENT else (found is expected), found


def test_the_reasons_are_all_of_them() -> None:
    assert reasons() == set(Reason)
