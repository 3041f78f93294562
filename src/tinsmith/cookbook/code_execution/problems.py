"""Programming problems: what is asked, and the tests that an answer has to pass."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.types.errors import invalid

_FORMS = "`assert EXPRESSION == LITERAL` (or `is`), `assert CALL` or `assert not CALL`"


@dataclasses.dataclass(frozen=True)
class OutputTest:
    """The program is run as a script: it reads `stdin` and has to print `stdout`, white space at line ends aside."""

    stdin: str
    stdout: str


@dataclasses.dataclass(frozen=True)
class CallTest:
    """The program is run as a module: the expression `call` has to give `returns` in it, a literal's value."""

    call: str
    returns: Any

    @classmethod
    def from_assert(cls, text: str) -> CallTest:
        """Take an assert statement apart, so that the value it expects can be kept from the program.

        Raises:
            UserError: the statement is of another form; its expected value would lie where the program can read it.
        """
        try:
            (statement,) = ast.parse(text).body
            assert isinstance(statement, ast.Assert)
        except (SyntaxError, ValueError, AssertionError):
            raise invalid("tests", text, f"one statement of the form {_FORMS}") from None
        test = statement.test
        match test:
            case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
                try:
                    return cls(ast.unparse(left), ast.literal_eval(right))
                except ValueError:
                    raise invalid("tests", text, f"a literal on the right, as in {_FORMS}") from None
            case ast.Call():
                return cls(f"bool({ast.unparse(test)})", True)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Call()):
                return cls(f"bool({ast.unparse(test.operand)})", False)
        raise invalid("tests", text, f"the form {_FORMS}")


@dataclasses.dataclass(frozen=True)
class CodeProblem:
    """A problem and its tests, which are all of one kind.

    Args:
        statement: what is asked, in words; the tests' expected values are not in it, unless you write them there.
        tests: at least one.

    Raises:
        UserError: no tests, or tests of both kinds.
    """

    statement: str
    tests: Sequence[OutputTest] | Sequence[CallTest]

    def __post_init__(self) -> None:
        if not self.tests:
            raise invalid("tests", self.tests, "at least one")
        if len({type(test) for test in self.tests}) > 1:
            raise invalid("tests", self.tests, "tests of one kind: standard input and output, or asserts")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> CodeProblem:
        """Read a row of a data file.

        Args:
            row: `statement`, a text, and `tests`: asserts as texts, or objects with `stdin` and `stdout`.

        Raises:
            UserError: names the field that is not of that form.
        """
        statement, tests = row.get("statement"), row.get("tests")
        if not isinstance(statement, str) or not statement.strip():
            raise invalid("statement", statement, "a text")
        if not isinstance(tests, Sequence) or isinstance(tests, str):
            raise invalid("tests", tests, "a list of asserts, or of objects with stdin and stdout")
        return cls(statement, [_test(test, f"tests[{i}]") for i, test in enumerate(tests)])


def _test(test: object, where: str) -> Any:
    if isinstance(test, str):
        return CallTest.from_assert(test)
    if not isinstance(test, Mapping) or set(test) != {"stdin", "stdout"}:
        raise invalid(where, test, "an assert, or an object with stdin and stdout")
    for key, value in test.items():
        if not isinstance(value, str):
            raise invalid(f"{where}.{key}", value, "a text")
    return OutputTest(**test)
