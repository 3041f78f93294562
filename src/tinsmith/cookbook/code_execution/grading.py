"""Whether a program passes the tests of a problem, test by test."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from tinsmith.cookbook.code_execution import inside
from tinsmith.cookbook.code_execution.limits import Limits
from tinsmith.cookbook.code_execution.problems import CallTest, CodeProblem, OutputTest
from tinsmith.cookbook.code_execution.sandbox import Executed, Reason, Sandbox, reason_of
from tinsmith.cookbook.code_execution.values import decode, same, same_text

_GUEST = (Path(inside.__file__).parent / "guest.py").read_text(encoding="utf-8")
# What became of a test. `exited`: the program ended all by itself before the test had a result.
Verdict = Literal["passed", "wrong answer", "exited"] | Reason


@dataclasses.dataclass(frozen=True)
class TestResult:
    """What became of one test.

    Attributes:
        verdict: `passed`, `wrong answer`, or why there was no answer.
        detail: for people: the last line of what was raised, or what came out instead.
    """

    verdict: Verdict
    detail: str = ""

    # Its name begins like that of a test class, which it is not.
    __test__ = False


@dataclasses.dataclass(frozen=True)
class CodeGrade:
    """What became of all tests of a problem.

    Attributes:
        results: in the order of the problem's tests.
        seconds: wall clock of the run.
    """

    results: tuple[TestResult, ...]
    seconds: float

    @property
    def passed(self) -> int:
        """How many tests were passed."""
        return sum(result.verdict == "passed" for result in self.results)

    @property
    def share(self) -> float:
        """The share of tests that were passed, from 0 to 1."""
        return self.passed / len(self.results)

    @property
    def correct(self) -> bool:
        """Whether all were."""
        return self.passed == len(self.results)

    @property
    def verdict(self) -> Verdict:
        """`passed`, or that of the first test that was not."""
        for result in self.results:
            if result.verdict != "passed":
                return result.verdict
        return "passed"


async def grade_code(problem: CodeProblem, code: str, sandbox: Sandbox, limits: Limits | None = None) -> CodeGrade:
    """Run a program against all tests of a problem, in one run of the sandbox.

    The program gets the inputs of the tests; what they expect stays here, and so does the comparison. A program that
    ends early, overloads `==` or prints what a test harness would print has no answers, and fails.

    Args:
        problem: what was asked.
        code: the program, e.g. of `extract_code`.
        sandbox: where it runs.
        limits: for all tests together; None takes the sandbox's own.

    Raises:
        SandboxError: the sandbox failed, which is no verdict about the program.
    """
    most = (limits or Limits()).output
    tests = problem.tests
    kind = {"calls": [test.call for test in tests if isinstance(test, CallTest)]}
    if isinstance(tests[0], OutputTest):
        kind = {"inputs": [test.stdin for test in tests if isinstance(test, OutputTest)]}
    executed = await sandbox.run(_GUEST, repr({"program": code, "most": most, **kind}), limits)
    outcomes = _outcomes(executed.stdout, len(tests))
    results = (_result(test, outcomes.get(i), executed) for i, test in enumerate(tests))
    return CodeGrade(tuple(results), executed.seconds)


def _outcomes(stdout: str, tests: int) -> dict[int, dict[str, Any]]:
    """Return what was told of each test; the first word counts."""
    found: dict[int, dict[str, Any]] = {}
    for line in stdout.splitlines():
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a line that the end of the run cut, or one that the program wrote
        if isinstance(told, dict) and type(index := told.get("test")) is int and 0 <= index < tests:
            found.setdefault(index, told)
    return found


def _result(test: OutputTest | CallTest, told: dict[str, Any] | None, executed: Executed) -> TestResult:
    if told is None:
        return TestResult("exited" if executed.ok else executed.reason, _last_line(executed.stderr))
    if isinstance(test, CallTest):
        return _call_result(test, told)
    if told.get("flooded"):
        return TestResult("output")
    code, error, stdout = told.get("exit_code"), str(told.get("error", "")), str(told.get("stdout", ""))
    if code != 0:
        return TestResult(reason_of(code if isinstance(code, int) else 1, error), error)
    return TestResult("passed") if same_text(stdout, test.stdout) else TestResult("wrong answer", repr(stdout[:200]))


def _call_result(test: CallTest, told: dict[str, Any]) -> TestResult:
    if "value" not in told:
        error = str(told.get("error", ""))
        return TestResult("exited" if error.startswith("SystemExit") else reason_of(1, error), error)
    try:
        value = decode(told["value"])
    except ValueError as error:
        return TestResult("wrong answer", str(error))
    return TestResult("passed") if same(value, test.returns) else TestResult("wrong answer", _shown(value))


def _shown(value: object) -> str:
    try:
        return repr(value)[:200]
    except ValueError:
        return "a very large number"  # Python writes none of more than a few thousand digits


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2][:200]
