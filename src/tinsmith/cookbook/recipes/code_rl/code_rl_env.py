"""One problem: what is asked, and what a program that answers it is worth."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.code_execution import CodeGrade, CodeProblem, Sandbox, extract_code, grade_code
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import MessageEnv, MessageStepResult, RewardMap
from tinsmith.types.errors import invalid

ASKED = "\n\nWrite a Python program. Put it into a ```python fence."
# Verdicts of a slow or busy machine: the same program may get another one next time.
_OF_THE_CLOCK = ("time", "cpu")
_REWARDS = RewardMap()
_BROKEN = ("SyntaxError", "IndentationError", "TabError")


@dataclasses.dataclass(frozen=True)
class Task:
    """A problem, and how it is answered.

    Attributes:
        problem: statement and tests.
        prefix: how the program begins; then the answer goes on from there, and nothing is said about fences. An answer
            with a fence is a whole program all the same.
        solution: a program that passes, if somebody knows one: for transcripts and tests, never for the model.
    """

    problem: CodeProblem
    prefix: str = ""
    solution: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Task:
        """Read `statement`, `tests`, and perhaps `prefix` and `solution`; other fields are for whoever reads the file.

        Raises:
            UserError: names the field that is not of that form.
        """
        for name in ("prefix", "solution"):
            if not isinstance(row.get(name, ""), str):
                raise invalid(name, row[name], "a text")
        return cls(CodeProblem.from_row(row), row.get("prefix", ""), row.get("solution", ""))

    def question(self) -> str:
        """Return what the policy is asked."""
        return self.problem.statement + ("" if self.prefix else ASKED)


class Grades:
    """Grades programs, each of them once: many answers of a group are the same, and come at the same time.

    Args:
        sandbox: where they run.
        most: how many grades are remembered.
    """

    def __init__(self, sandbox: Sandbox, most: int = 10_000) -> None:
        self._sandbox = sandbox
        self._most = most
        # By the identity of the problem: two may ask the same and test it otherwise. The problem is kept, so that no
        # other gets its identity.
        self._known: OrderedDict[tuple[int, str], tuple[CodeProblem, CodeGrade]] = OrderedDict()
        # Held-out problems may be graded on another loop meanwhile, but no problem is on two.
        self._running: dict[tuple[int, str], asyncio.Task[CodeGrade]] = {}

    async def of(self, problem: CodeProblem, code: str) -> CodeGrade:
        """Return the grade of a program."""
        key = (id(problem), code)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key][1]
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._grade(key, problem, code))
        # Shielded: an episode that is given up must not end the run that others wait for.
        return await asyncio.shield(self._running[key])

    async def _grade(self, key: tuple[int, str], problem: CodeProblem, code: str) -> CodeGrade:
        try:
            grade = await grade_code(problem, code, self._sandbox)
        finally:
            del self._running[key]
        if not any(result.verdict in _OF_THE_CLOCK for result in grade.results):
            self._known[key] = (problem, grade)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return grade


class CodeEnv(MessageEnv):
    """A problem that is answered with one program.

    Args:
        task: what is asked.
        grades: run the program.
        rewards: what it is worth; the form is right where the program is in a fence, or, after a prefix, compiles.
        partial_credit: whether passing some tests is worth something.
    """

    def __init__(
        self, task: Task, grades: Grades, rewards: RewardMap = _REWARDS, *, partial_credit: bool = False
    ) -> None:
        self.task = task
        self._grades = grades
        self._rewards = rewards
        self._partial = partial_credit

    async def initial_observation(self) -> Sequence[Message | Mapping[str, Any]]:
        """Return the question."""
        return [{"role": "user", "content": self.task.question()}]

    async def step(self, message: Message) -> MessageStepResult:
        """Run the program of the answer."""
        code, fenced = extract_code(get_text_content(message))
        if not fenced:
            code = self.task.prefix + code
        grade = await self._grades.of(self.task.problem, code)
        compiles = not any(result.detail.startswith(_BROKEN) for result in grade.results)
        formatted = fenced or (compiles and bool(self.task.prefix))
        earned = grade.share if self._partial else float(grade.correct)
        parts = self._rewards.parts(correct=earned, formatted=float(formatted))
        return MessageStepResult(
            sum(parts.values()),
            True,
            metrics={
                "correct": float(grade.correct),
                "tests_passed": grade.share,
                "format": float(formatted),
                # It raised, hung, ended early, ...: there was no answer to compare.
                "stopped": float(grade.verdict not in ("passed", "wrong answer")),
            },
            logs={"program": code, "verdict": _told(grade), "reference": self.task.prefix + self.task.solution},
            reward_parts=parts,
        )


def _told(grade: CodeGrade) -> str:
    """Return the verdict of a program in words."""
    first = next((result.detail for result in grade.results if result.verdict != "passed"), "")
    return f"{grade.passed} of {len(grade.results)} tests passed" + (f"; {grade.verdict}: {first}" if first else "")
