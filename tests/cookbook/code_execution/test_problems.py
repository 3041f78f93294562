"""Problems as rows, what counts as equal, and the program in an answer."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.cookbook.code_execution import CallTest, CodeProblem, OutputTest, extract_code, reason_of
from tinsmith.cookbook.code_execution.inside.guest import encode, to_json
from tinsmith.cookbook.code_execution.values import decode, same, same_text
from tinsmith.types.errors import UserError

pytestmark = pytest.mark.row(70)


@pytest.mark.parametrize(
    ("text", "call", "returns"),
    [
        ("assert f(1) == 2", "f(1)", 2),
        ("assert f(1, b=[2]) == (-1, {'a': None})", "f(1, b=[2])", (-1, {"a": None})),
        ("assert sorted(f('x')) == ['y']", "sorted(f('x'))", ["y"]),
        ("assert f(1) is None, 'why'", "f(1)", None),
        ("assert f(1)", "bool(f(1))", True),
        ("assert not f(1)", "bool(f(1))", False),
        ("  assert f() == set()".strip(), "f()", set()),
    ],
)
def test_an_assert_is_taken_apart(text: str, call: str, returns: Any) -> None:
    assert CallTest.from_assert(text) == CallTest(call, returns)


@pytest.mark.parametrize(
    "text",
    [
        "assert abs(f(1) - 2) < 0.1",  # what it expects would lie beside the program
        "assert f(1) == g(2)",
        "assert f(1) != 2",
        "assert 1 < f(1) < 3",
        "assert f(1) == 2 and f(2) == 3",
        "f(1) == 2",
        "assert f(1) == 2; assert f(2) == 3",
        "assert f(1) ==",
        "assert f(1) == 'a\0'",
        "",
    ],
)
def test_an_assert_that_would_give_its_answer_away_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^tests: got .*, expected .*assert EXPRESSION == LITERAL"):
        CallTest.from_assert(text)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tests": ["assert f()"]}, "statement: got None, expected a text"),
        ({"statement": " ", "tests": ["assert f()"]}, "statement: got ' ', expected a text"),
        ({"statement": "?", "tests": []}, "tests: got .*, expected at least one"),
        ({"statement": "?", "tests": "assert f()"}, "tests: got 'assert .*, expected a list"),
        ({"statement": "?", "tests": [3]}, r"tests\[0\]: got 3, expected an assert, or an object"),
        ({"statement": "?", "tests": [{"stdin": ""}]}, r"tests\[0\]: got .*, expected an assert, or an object"),
        ({"statement": "?", "tests": [{"stdin": "", "stdout": 3}]}, r"tests\[0\].stdout: got 3, expected a text"),
        ({"statement": "?", "tests": ["assert f()", {"stdin": "", "stdout": ""}]}, "expected tests of one kind"),
    ],
)
def test_a_row_of_another_form_is_refused_by_the_name_of_its_field(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CodeProblem.from_row(row)


def test_a_row_of_each_kind() -> None:
    scripts = CodeProblem.from_row({"statement": "?", "tests": [{"stdin": "1", "stdout": "2"}], "id": 7})
    assert scripts.tests == [OutputTest("1", "2")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=1)  # of more, the order is not always the same
    ),
    max_leaves=5,
)


@examples(25)
@given(VALUES)
def test_a_value_survives_the_way_out_of_the_sandbox(value: Any) -> None:
    assert repr(decode(json.loads(to_json(encode(value))))) == repr(value)


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        (0.1 + 0.2, 0.3, True),
        ([0.1 + 0.2, 1], [0.3, 1], True),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        (2, 2.0, True),
        (10**400, 1.0, False),
        (math.nan, 1.0, False),
        ("2", 2.0, False),
        (True, 1, True),
        ((1, 2), [1, 2], False),
        ([1], [1, 2], False),
        ([], (), False),
        ({"a": 1}, {"b": 1}, False),
        ([["a", 1]], {"a": 1}, False),
        ({1, 2}, {2, 1}, True),
        ("a", "A", False),
    ],
)
def test_what_counts_as_equal(found: Any, expected: Any, equal: bool) -> None:
    assert same(found, expected) is equal


def test_white_space_at_line_ends_does_not_count_but_words_do() -> None:
    assert same_text("1 2 \n3\n\n", "1 2\n3")
    assert same_text("1\r\n2", "1\n2")
    assert not same_text("12", "1 2")
    assert not same_text("\n1", "1")


@pytest.mark.parametrize(
    ("answer", "code", "fenced"),
    [
        ("```python\nx = 1\n```", "x = 1\n", True),
        ("First:\n```\nx = 1\n```\nbetter:\n```py\nx = 2\n```\nDone.", "x = 2\n", True),
        ("```python\nx = 1\n```\nIt prints\n```text\n1\n```", "x = 1\n", True),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n", True),
        ("```Python title=a.py\nx = 1\n```  \n", "x = 1\n", True),
        ("```python\n```", "", True),
        ("```python\nx = 1", "```python\nx = 1", False),
        ("print(1)", "print(1)", False),
        ("use `x` and ```y``` here", "use `x` and ```y``` here", False),
        ("```bash\nls\n```", "```bash\nls\n```", False),
    ],
)
def test_the_program_in_an_answer(answer: str, code: str, fenced: bool) -> None:
    assert extract_code(answer) == (code, fenced)


@pytest.mark.parametrize(
    ("exit_code", "stderr", "reason"),
    [
        (0, "MemoryError", "ok"),
        (1, "Traceback ...\nMemoryError\n", "memory"),
        (1, "OSError: [Errno 12] Cannot allocate memory", "memory"),
        (1, "OSError: [Errno 28] No space left on device: 'a'", "disk"),
        (1, "OSError: [Errno 24] Too many open files: 'a'", "files"),
        (1, "BlockingIOError: [Errno 11] Resource temporarily unavailable", "processes"),
        (1, "ValueError: MemoryError", "raised"),
        (2, "", "raised"),
        (-9, "", "signal"),
        (-24, "", "cpu"),
    ],
)
def test_an_exit_code_is_named(exit_code: int, stderr: str, reason: str) -> None:
    assert reason_of(exit_code, stderr) == reason
