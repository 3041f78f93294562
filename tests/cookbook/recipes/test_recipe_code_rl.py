"""Programs for a reward: the problems that ship, what an answer is worth, and that it is learned."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cookbook.recipes.expected import expected_numbers, run_without_arguments
from tinsmith.cookbook.code_execution import CodeProblem, Executed, Limits, LocalSandbox, SandboxError, grade_code
from tinsmith.cookbook.recipes.code_rl import drawn_problems, first_lesson
from tinsmith.cookbook.recipes.code_rl.code_rl_dataset import SHIPPED, env_name, load_tasks
from tinsmith.cookbook.recipes.code_rl.code_rl_env import ASKED, CodeEnv, Grades, Task
from tinsmith.cookbook.recipes.code_rl.config import Config
from tinsmith.cookbook.recipes.code_rl.train import main
from tinsmith.cookbook.rl import MessageStepResult, RewardMap
from tinsmith.cookbook.runs.command import parse
from tinsmith.types.errors import UserError

DOUBLE = Task.from_row({"statement": "Write double(x).", "tests": ["assert double(2) == 4", "assert double(5) == 10"]})
LINE = Task.from_row({"statement": "f(x): twice x", "tests": ["assert f(2) == 4"], "prefix": "def f(x): return "})


class Counting:
    """A sandbox that remembers what it ran."""

    def __init__(self, executed: Executed | None = None) -> None:
        self.runs: list[str] = []
        self._executed = executed
        self._local = LocalSandbox()

    async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
        self.runs.append(stdin)
        return self._executed or await self._local.run(program, stdin, limits)


def answer(task: Task, said: str, grades: Grades | None = None, **settings: Any) -> MessageStepResult:
    env = CodeEnv(task, grades or Grades(LocalSandbox()), **settings)
    return asyncio.run(env.step({"role": "assistant", "content": said}))


@pytest.mark.row(70)
@pytest.mark.parametrize(
    ("task", "said", "parts"),
    [
        (DOUBLE, "So:\n```python\ndef double(x): return 2 * x\n```", (1.0, 0.1)),
        (DOUBLE, "def double(x): return 2 * x", (1.0, 0.0)),
        (DOUBLE, "```python\ndef double(x): return 4\n```", (0.0, 0.1)),
        (DOUBLE, "I do not know.", (0.0, 0.0)),
        (LINE, "x * 2", (1.0, 0.1)),
        (LINE, "x + 1", (0.0, 0.1)),
        (LINE, "x +", (0.0, 0.0)),
        (LINE, "```python\ndef f(x):\n    return x + x\n```", (1.0, 0.1)),
    ],
)
def test_what_an_answer_is_worth(task: Task, said: str, parts: tuple[float, float]) -> None:
    result = answer(task, said)
    assert (result.reward_parts["answer"], result.reward_parts["format"]) == parts
    assert result.reward == sum(parts)
    assert result.episode_done
    assert result.metrics["correct"] == parts[0]


@pytest.mark.row(70)
def test_part_of_the_tests_is_worth_something_only_where_that_is_asked_for() -> None:
    said = "```python\ndef double(x): return 4\n```"
    assert answer(DOUBLE, said).reward == 0.1
    result = answer(DOUBLE, said, partial_credit=True, rewards=RewardMap(wrong=-1.0, formatted=0.0))
    assert result.reward == 0.0  # half way from -1 to 1
    assert result.metrics["tests_passed"] == 0.5
    assert result.metrics["correct"] == 0.0


@pytest.mark.row(70)
def test_a_transcript_tells_the_program_and_what_became_of_it() -> None:
    logs = answer(LINE, "x / 0").logs
    assert logs["program"] == "def f(x): return x / 0"
    assert logs["verdict"] == "0 of 1 tests passed; raised: ZeroDivisionError: division by zero"
    assert answer(LINE, "2 * x").logs["verdict"] == "1 of 1 tests passed"


@pytest.mark.row(70)
def test_the_same_program_is_run_once_unless_the_clock_ended_it() -> None:
    sandbox = Counting()
    grades = Grades(sandbox, most=2)
    for said in ("x * 2", "x * 3", "x * 2", "x * 3"):
        answer(LINE, said, grades)
    assert len(sandbox.runs) == 2
    answer(LINE, "x * 4", grades)
    answer(LINE, "x * 2", grades)
    assert len(sandbox.runs) == 4, "no more than `most` are remembered"
    late = Counting(Executed("", "", "time", 10.0))
    grades = Grades(late)
    for _ in range(2):
        answer(LINE, "x * 2", grades)
    assert len(late.runs) == 2


@pytest.mark.row(70)
def test_answers_that_come_together_share_a_run_and_one_that_is_given_up_does_not_end_it() -> None:
    sandbox = Counting()
    grades = Grades(sandbox)

    async def together() -> list[bool]:
        tasks = [asyncio.create_task(grades.of(LINE.problem, "def f(x): return x * 2")) for _ in range(5)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        return [grade.correct for grade in done[1:] if not isinstance(grade, BaseException)]

    assert asyncio.run(together()) == [True] * 4
    assert len(sandbox.runs) == 1


@pytest.mark.row(70)
def test_a_broken_sandbox_is_no_reward() -> None:
    class Broken:
        async def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Executed:
            raise SandboxError("no room")

    with pytest.raises(SandboxError, match="no room"):
        answer(LINE, "x * 2", Grades(Broken()))


def test_what_is_asked() -> None:
    assert DOUBLE.question() == "Write double(x)." + ASKED
    assert LINE.question() == "f(x): twice x"


@pytest.mark.row(70)
def test_the_shipped_problems_are_solved_by_their_solutions_and_not_by_a_constant() -> None:
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 20
    sandbox = LocalSandbox()

    async def grade_all() -> None:
        for row in rows:
            task = Task.from_row(row)
            solved = await grade_code(task.problem, task.solution, sandbox)
            assert solved.correct, (row["statement"], solved)
            outputs = {repr(getattr(test, "returns", getattr(test, "stdout", None))) for test in task.problem.tests}
            assert len(outputs) > 1, row["statement"]

    asyncio.run(grade_all())


@pytest.mark.row(70)
def test_drawn_problems_are_solved_by_their_program_and_not_by_the_slip() -> None:
    grades = Grades(LocalSandbox())

    async def grade(problem: CodeProblem, program: str) -> bool:
        return (await grades.of(problem, drawn_problems.PREFIX + program)).correct

    # One of each kind; that the program solves the others too follows from how they are drawn.
    for drawn in drawn_problems.draw("held_out", len(drawn_problems.KINDS), seed=3):
        assert asyncio.run(grade(drawn.problem, drawn.program)), drawn
        assert not asyncio.run(grade(drawn.problem, drawn.slip)), drawn


def test_drawn_problems_follow_from_the_seed_and_share_no_word() -> None:
    train, test = (drawn_problems.draw(split, 140, seed=0) for split in ("train", "held_out"))
    assert train == drawn_problems.draw("train", 140, seed=0)
    assert train != drawn_problems.draw("train", 140, seed=1)
    assert not {word for drawn in train for word in drawn.tested} & {word for drawn in test for word in drawn.tested}
    assert len({drawn.program for drawn in test}) > 40
    # Whoever always writes the same program solves one kind of fourteen, at best.
    assert 1 / 140 <= drawn_problems.best_constant(test) <= 0.11


def test_the_pupil_of_the_first_lesson_prefers_the_slip() -> None:
    drawn = drawn_problems.draw("train", 1400, seed=0)
    rng = Random(0)
    written = [drawn_problems.pupil(rng, each, drawn) for each in drawn]
    right = sum(program == each.program for program, each in zip(written, drawn, strict=True)) / len(drawn)
    slips = sum(program == each.slip for program, each in zip(written, drawn, strict=True)) / len(drawn)
    assert right == pytest.approx(drawn_problems.RIGHT, abs=0.05)
    assert slips == pytest.approx(drawn_problems.SLIP, abs=0.05)
    assert right < slips
    held_out = {word for each in drawn_problems.draw("held_out", 140, seed=0) for word in each.tested}
    assert not held_out & {word for row in first_lesson.rows(32, 0) for word in str(row).split("'")}


def test_each_model_gets_problems_that_it_can_be_asked() -> None:
    assert env_name(None, "tinsmith-tiny") == "drawn"
    assert env_name(None, "Qwen/Qwen3-8B") == "basics"
    assert env_name("mine.jsonl", "tinsmith-tiny") == "mine.jsonl"
    tasks = load_tasks(Config(env="basics"))
    assert (len(tasks.train), len(tasks.test)) == (15, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"statement": "?"}', r"mine\.jsonl, line 2: tests: got None, expected a list"),
        ('{"statement": "?", "tests": ["f()"]}', r"mine\.jsonl, line 2: tests: got 'f\(\)', expected one statement"),
        ('{"statement": "?", "tests": ["assert f()"], "prefix": 3}', r"line 2: prefix: got 3, expected a text"),
        ("[1]", r"line 2: a list, expected one row a line"),
        ("3", r"line 2: row: got 3, expected an object"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_by_its_line(line: str, message: str, tmp_path: Path) -> None:
    good = '{"statement": "?", "tests": ["assert f()"], "id": 1}\n'
    (tmp_path / "mine.jsonl").write_text(good + line + "\n" + good)
    with pytest.raises(UserError, match=message):
        load_tasks(Config(env=str(tmp_path / "mine.jsonl"), held_out=1))


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UserError, match=r"held_out: got 20, expected at least one of the 20 problems, and not all"):
        load_tasks(Config(env="basics", held_out=20))
    with pytest.raises(UserError, match=r"held_out: got 0, expected a number of problems"):
        parse(Config, ["held_out=0"])
    with pytest.raises(UserError, match=r"test_seconds: got 0"):
        parse(Config, ["test_seconds=0"])


@pytest.mark.row(70, 108, 110)
def test_a_short_run_trains_shows_what_it_came_to_and_is_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["drawn=40", "held_out=4", "lesson_steps=2", "max_steps=2", "batch_size=2", "group_size=4"]
    config = parse(Config, [*settings, "eval_every=2", f"log_path={tmp_path}/run"])
    result = main(config)
    shown = capsys.readouterr().out
    for told in ("sandbox   generated code is", "base model", "first lesson", "one program", "4 of drawn"):
        assert told in shown
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/drawn/correct" in row] == [0, 2]
    assert {"env/correct", "env/tests_passed", "env/format", "env/stopped"} <= set(rows[0])
    page = next((tmp_path / "run").rglob("step-000000.html")).read_text()
    assert "def f(s): return" in page
    # The lesson and the run are finished: nothing is done again.
    assert main(config) == result
    with pytest.raises(UserError, match="partial_credit"):
        main(parse(Config, [*settings, "eval_every=2", "partial_credit=true", f"log_path={tmp_path}/run"]))


def numbers_of(folder: Path) -> tuple[float, float, float]:
    """Return how many held-out problems were solved by the base model, after the lesson, and at the end."""
    first, last = (
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first_lesson", ".")
    )
    return first[0]["eval/drawn/correct"], last[0]["eval/drawn/correct"], last[-1]["eval/drawn/correct"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.row(70, 102, 108)
def test_without_arguments_it_comes_to_the_numbers_of_its_readme(tmp_path: Path) -> None:
    run_without_arguments("code_rl", tmp_path)
    base, lesson, after, constant = expected_numbers("code_rl")["programs that pass"]
    found = numbers_of(tmp_path / "run")
    assert found[:2] == pytest.approx((base, lesson), abs=0.03)
    # Other processors round differently, and sampling makes more of it.
    assert found[2] == pytest.approx(after, abs=0.2)
    assert found[2] >= found[1] + 0.35
    assert found[2] >= constant + 0.4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.row(70)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_learns_with_any_seed(seed: int, tmp_path: Path) -> None:
    module = "tinsmith.cookbook.recipes.code_rl.train"
    done = subprocess.run(
        [sys.executable, "-m", module, "log_path=run", f"seed={seed}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    base, lesson, after = numbers_of(tmp_path / "run")
    assert base <= 0.02
    assert 0.02 <= lesson <= 0.35
    assert after >= lesson + 0.3
