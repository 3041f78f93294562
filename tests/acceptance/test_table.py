"""Every row of the mission is shown by a test, and the page says what each came to."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.table import Row, marked_tests, merged, page, read_rows, verdict


def test_the_rows_are_numbered_without_a_gap() -> None:
    rows = read_rows()
    assert [r.number for r in rows if r.part == "A"] == list(range(1, 119))
    numbers = [r.number for r in rows if r.part == "B"]
    assert numbers == list(range(201, 201 + len(numbers)))
    assert all(row.text for row in rows)


def test_every_row_of_the_mission_has_a_test() -> None:
    marked = marked_tests()
    assert [row.number for row in read_rows() if row.part == "A" and not marked.get(row.number)] == []


def test_no_test_is_marked_with_a_row_that_is_none() -> None:
    assert set(marked_tests()) <= {row.number for row in read_rows()}


def test_marks_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_some.py").write_text(
        "import pytest\npytestmark = pytest.mark.row(3)\n"
        "@pytest.mark.slow\n@pytest.mark.row(4, 5)\ndef test_a(): ...\n"
        "class TestB:\n    @pytest.mark.row(5)\n    async def test_b(self): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.row(6))])\ndef test_c(x): ...\n"
        "def helper():\n    return pytest.mark.row(9)\n"
    )
    at = f"{tmp_path.name}/deep/test_some.py"
    found = marked_tests(tmp_path)
    assert found[4] == {f"{at}::test_a"}
    assert f"{at}::test_a" in found[5]
    assert f"{at}::test_b" in found[5]
    assert found[6] == {f"{at}::test_c"}
    assert set(found) == {3, 4, 5, 6}


def test_the_page_names_what_is_open_and_what_failed() -> None:
    rows = [Row("A", "Basics", 1, "This | that."), Row("A", "Basics", 2, "More."), Row("B", "Field", 201, "Else.")]
    results = {
        1: {"tests/x/test_a.py::test_one[a]": "passed", "tests/x/test_a.py::test_one[b]": "passed"},
        2: {"tests/x/test_a.py::test_one[a]": "passed", "tests/y/test_b.py::test_two": "failed"},
    }
    marked = {1: {"tests/x/test_a.py::test_one", "tests/z/test_c.py::test_slow"}, 2: {"tests/y/test_b.py"}}
    text = page(rows, results, marked)
    assert "| A | 2 | 1 | 0 | 1 |" in text
    assert "| B | 1 | 0 | 1 | 0 |" in text
    assert "| 1 | This \\| that. | passed | `x/test_a.py`, 2 tests<br>not run: test_slow |" in text
    assert "| 2 | More. | **failed** | `x/test_a.py`, 1 test<br>`y/test_b.py`, 1 test (test_two failed) |" in text
    assert "| 201 | Else. | **open** |  |" in text


def test_a_row_is_as_good_as_its_worst_test() -> None:
    assert verdict([]) == "open"
    assert verdict(["passed", "skipped"]) == "passed"
    assert verdict(["skipped"]) == "skipped"
    assert verdict(["passed", "failed"]) == "failed"


def test_a_run_in_pieces_adds_up_and_forgets_tests_that_are_gone() -> None:
    row, (known, *_) = next((row, sorted(tests)) for row, tests in sorted(marked_tests().items()) if tests)
    earlier = {row: {f"{known}[a]": "failed", f"{known}[b]": "passed", "tests/test_gone.py::test_old": "failed"}}
    assert merged(earlier, {row: {f"{known}[a]": "passed"}}) == {
        row: {f"{known}[a]": "passed", f"{known}[b]": "passed"}
    }
    assert merged({row: {"tests/test_gone.py::test_old": "failed"}}, {}) == {}
