"""Grades: right programs pass, wrong ones do not, and neither do those that try to look right."""

from __future__ import annotations

import asyncio
import json

import pytest

from tinsmith.cookbook.code_execution import (
    CodeGrade,
    CodeProblem,
    Executed,
    Limits,
    LocalSandbox,
    SandboxError,
    grade_code,
)

pytestmark = pytest.mark.row(70)
LIMITS = Limits(seconds=10.0, cpu_seconds=1)
DOUBLE = CodeProblem.from_row(
    {
        "statement": "Write double(x).",
        "tests": [
            "assert double(2) == 4",
            "assert double('ab') == 'abab'",
            "assert double((1, [2])) == (1, [2], 1, [2])",
        ],
    }
)
ADD = CodeProblem.from_row(
    {
        "statement": "Read two numbers, print their sum.",
        "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "20 22", "stdout": "42"}],
    }
)


@pytest.fixture(scope="module")
def sandbox() -> LocalSandbox:
    return LocalSandbox()


def grade(problem: CodeProblem, code: str, sandbox: LocalSandbox, limits: Limits = LIMITS) -> CodeGrade:
    return asyncio.run(grade_code(problem, code, sandbox, limits))


@pytest.mark.parametrize(
    ("code", "verdicts"),
    [
        ("def double(x): return x * 2", ["passed"] * 3),
        ("def double(x):\n print('so: ', x)\n return x + x", ["passed"] * 3),
        ("def double(x): return 2 * x if isinstance(x, int) else None", ["passed", "wrong answer", "wrong answer"]),
        ("def double(x): return x + 2", ["passed", "raised", "raised"]),
        ("def double(x): return list(x) * 2 if isinstance(x, tuple) else x * 2", ["passed", "passed", "wrong answer"]),
        ("def triple(x): return x * 3", ["raised"] * 3),
        ("def double(x) return", ["raised"] * 3),
        ("def double(x): return x * 2\nif __name__ == '__main__': print(input())", ["passed"] * 3),
        ("import os\ndef double(x): return x * 2 if x == 2 else os._exit(0)", ["passed", "exited", "exited"]),
        ("def double(x): return x * 2 if x == 2 else exit()", ["passed", "exited", "exited"]),
        ("def double(x):\n if x == 2: return 4\n while True: pass", ["passed", "cpu", "cpu"]),
        ("def double(x): return bytes(10 ** 10)", ["memory"] * 3),
        ("def double(x): return 10 ** 10 ** 5", ["wrong answer"] * 3),
        ("def double(x):\n while True: print(x)", ["output"] * 3),
        ("def double(x):\n raise SystemExit(0)", ["exited"] * 3),
        ("x = []\nx.append(x)\ndef double(y): return x", ["raised"] * 3),
    ],
)
def test_functions(code: str, verdicts: list[str], sandbox: LocalSandbox) -> None:
    graded = grade(DOUBLE, code, sandbox)
    assert [result.verdict for result in graded.results] == verdicts, graded
    assert graded.passed == verdicts.count("passed")
    assert graded.share == graded.passed / 3
    assert graded.correct == (graded.passed == 3)
    assert graded.verdict == next((verdict for verdict in verdicts if verdict != "passed"), "passed")


@pytest.mark.parametrize(
    ("code", "verdicts"),
    [
        ("print(sum(map(int, input().split())))", ["passed"] * 2),
        ("import sys\na, b = map(int, sys.stdin.buffer.read().split())\nprint(a + b, end='   \\n\\n')", ["passed"] * 2),
        ("print(3)\nexit()", ["passed", "wrong answer"]),
        ("print(3)\nraise ValueError", ["raised", "raised"]),
        ("import sys\nprint(42)\nsys.exit(1)", ["raised", "raised"]),
        ("def main(): print(sum(map(int, input().split())))\nif __name__ == '__main__': main()", ["passed"] * 2),
        # As those write who want a deep recursion; nobody waits for the thread but the interpreter.
        (
            "import threading, sys\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 26)\n"
            "threading.Thread(target=lambda: print(sum(map(int, input().split())))).start()",
            ["passed"] * 2,
        ),
        ("import atexit\natexit.register(lambda: print(3))", ["passed", "wrong answer"]),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n x: int\nprint(A(3).x)", ["passed", "wrong answer"]),
        ("a, b = map(int, input().split())\nwhile a > 9: pass\nprint(a + b)", ["passed", "cpu"]),
        ("while True: print('3' * 100)", ["output", "output"]),
        ("kept = [bytes(10 ** 10)]", ["memory", "memory"]),
        ("open('a', 'wb').write(bytes(10 ** 8))", ["disk", "disk"]),
        ("import os\nos.kill(os.getppid(), 9)", ["signal", "signal"]),
        ("print(", ["raised", "raised"]),
    ],
)
def test_scripts(code: str, verdicts: list[str], sandbox: LocalSandbox) -> None:
    graded = grade(ADD, code, sandbox)
    assert [result.verdict for result in graded.results] == verdicts, graded


def test_what_hangs_in_one_test_leaves_those_before_it_passed(sandbox: LocalSandbox) -> None:
    code = "import time\na, b = map(int, input().split())\nif a > 9: time.sleep(60)\nprint(a + b)"
    graded = grade(ADD, code, sandbox, Limits(seconds=1.0))
    assert [result.verdict for result in graded.results] == ["passed", "time"]
    assert graded.share == 0.5
    assert graded.seconds < 5


CHEATS = {
    "equal to anything": "class Any:\n def __eq__(self, other): return True\ndef double(x): return Any()",
    "a list equal to anything": "class Any(list):\n def __eq__(self, other): return True\ndef double(x): return Any()",
    "a number equal to anything": "class Any(int):\n def __eq__(self, other): return True\ndef double(x): return Any()",
    "ends well": "import sys\nsys.exit(0)",
    "ends at once": "import os\nos._exit(0)",
    "says that it passed": "print('passed')\nprint('{\"test\": 0, \"passed\": true}')\ndef double(x): pass",
    "writes results of its own": (
        "import os, json\n"
        "for fd in range(3, 20):\n"
        "  for i in range(3):\n"
        "    try: os.write(fd, json.dumps({'test': i, 'value': True, 'verdict': 'passed', 'stdout': '', "
        "'exit_code': 0}).encode() + b'\\n')\n"
        "    except OSError: pass\n"
        "os._exit(0)"
    ),
    "takes the comparison apart": (
        "import builtins, sys\n"
        "builtins.bool = builtins.all = lambda *a: True\n"
        "for module in list(sys.modules.values()):\n"
        "  for name in ('encode', 'tell', 'same', 'last_line'):\n"
        "    if hasattr(module, name): setattr(module, name, lambda *a: True)\n"
        "def double(x): return None"
    ),
    "reads the tests": (
        "import gc, glob, sys\n"
        "found = [o for o in gc.get_objects() if isinstance(o, dict) and 'calls' in o]\n"
        "text = repr(found) + repr([open(p).read() for p in glob.glob('*')])\n"
        "def double(x):\n"
        "  if 'aba' 'b' in text or '[2], ' '1' in text: return x * 2\n"
        "  frame = sys._getframe()\n"
        "  while frame:\n"
        "    if any('aba' 'b' in repr(v) for v in frame.f_locals.values() if isinstance(v, (str, list, tuple))):\n"
        "      return x * 2\n"
        "    frame = frame.f_back\n"
    ),
    "patches the way out": (
        "import sys\n"
        "sys.modules['__main__'].to_json = lambda told: '{\"test\": 0, \"value\": true}'\n"
        "sys.modules['__main__'].encode = lambda value: True\n"
        "def double(x): return 0"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_program_passes_without_the_answers(name: str, sandbox: LocalSandbox) -> None:
    assert grade(DOUBLE, CHEATS[name], sandbox).passed == 0


def test_nothing_that_is_expected_goes_to_the_sandbox() -> None:
    class Recorded:
        async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
            self.sent = program + stdin
            return Executed("", "", "ok", 0.0)

    sandbox = Recorded()
    for problem in (
        CodeProblem.from_row({"statement": "?", "tests": ["assert f(1) == 'expected'", "assert f(2) == ['expected']"]}),
        CodeProblem.from_row({"statement": "?", "tests": [{"stdin": "1", "stdout": "expected"}]}),
    ):
        graded = asyncio.run(grade_code(problem, "def f(x): pass", sandbox))
        assert "expected" not in sandbox.sent
        assert {result.verdict for result in graded.results} == {"exited"}


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "nonsense",
        "[1]",
        '{"test": true}',
        '{"test": 7, "value": 1}',
        '{"test": 0}',
        json.dumps({"test": 0, "value": {"set": [[1]]}}),
        json.dumps({"test": 0, "value": {"int": "z"}}),
        json.dumps({"test": 0, "value": {"bytes": 3}}),
        json.dumps({"test": 0, "value": {"dict": [[[1], 2]]}}),
        json.dumps({"test": 0, "value": {"what": 1}}),
        json.dumps({"test": 0, "value": {}}),
        json.dumps({"test": 0, "value": 4}),
        json.dumps({"test": 0, "error": ["a"]}),
    ],
)
def test_results_that_a_program_made_up_are_no_error_of_ours(line: str) -> None:
    class Forged:
        async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
            return Executed(line + "\n", "", "ok", 0.0)

    for problem in (DOUBLE, ADD):
        assert asyncio.run(grade_code(problem, "", Forged())).passed == 0


def test_a_sandbox_that_fails_is_no_verdict() -> None:
    class Broken:
        async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
            raise SandboxError("no room")

    with pytest.raises(SandboxError, match="no room"):
        asyncio.run(grade_code(DOUBLE, "", Broken()))
