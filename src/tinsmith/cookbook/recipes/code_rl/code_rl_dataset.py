"""Where problems come from: drawn, shipped, or a file; which are held out; and their groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinsmith.cookbook.recipes.code_rl.code_rl_env import CodeEnv, Grades, Task
from tinsmith.cookbook.recipes.code_rl.config import BASICS, DRAWN, Config
from tinsmith.cookbook.recipes.code_rl.drawn_problems import PREFIX, Drawn, best_constant, draw
from tinsmith.cookbook.rl import EnvFromMessageEnv, ItemDataset, MakeDataset, RepeatedEnv, RLDataset
from tinsmith.cookbook.rows.files.jsonl_rows import JsonlRows
from tinsmith.cookbook.rows.formats.row_keys import settle_keys_of_question
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.training import ModelSetup
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

# What is read of a row.
_KEYS = ("statement", "tests", "prefix", "solution")
SHIPPED = Path(__file__).parent / "problems.jsonl"


class Tasks(NamedTuple):
    """Problems to train on, and problems that are held out.

    Attributes:
        name: of the set, which its metrics are called after.
        constant: the share of `test` that is solved by the one program that solves most of them; None where nobody
            knows.
        facts: what they are, to hold a run to them.
    """

    name: str
    train: Sequence[Task]
    test: Sequence[Task]
    constant: float | None
    facts: Mapping[str, Any]


def env_name(env: str | None, model_name: str) -> str:
    """Return which problems a model gets where none are named."""
    return env or (DRAWN if model_name == EMBEDDED_MODEL else BASICS)


def load_tasks(config: Config) -> Tasks:
    """Draw or read the problems of a run.

    Raises:
        UserError: the file cannot be read, a row is no problem, or none is left to train on.
    """
    if config.env == DRAWN:
        count = _held_out(config, config.drawn)
        train, test = draw("train", config.drawn - count, config.seed), draw("held_out", count, config.seed)
        facts = {"drawn": config.drawn, "seed": config.seed}
        return Tasks(DRAWN, list(map(_task, train)), list(map(_task, test)), best_constant(test), facts)
    path = SHIPPED if config.env == BASICS else Path(str(config.env))
    name = BASICS if config.env == BASICS else path.stem
    rows = JsonlRows(path, _check)
    train, test = rows.split(_held_out(config, len(rows)), config.seed)
    return Tasks(name, list(map(Task.from_row, train)), list(map(Task.from_row, test)), None, rows.facts())


def _held_out(config: Config, total: int) -> int:
    """Return how many of so many problems are held out."""
    asked = config.held_out
    count = round(asked * total) if isinstance(asked, float) else asked
    if not 0 < count < total:
        raise invalid("held_out", asked, f"at least one of the {total} problems, and not all")
    return count


def groups(config: Config, tasks: Tasks, grades: Grades, *, held_out: bool = False) -> MakeDataset:
    """Return what makes the groups for a model: each training problem `group_size` times, or each held-out one once."""
    chosen, group_size = (tasks.test, 1) if held_out else (tasks.train, config.group_size)

    def make(model: ModelSetup) -> RLDataset:
        def group(task: Task) -> RepeatedEnv:
            def env() -> EnvFromMessageEnv:
                code_env = CodeEnv(task, grades, config.rewards(), partial_credit=config.partial_credit)
                return EnvFromMessageEnv(model.renderer, code_env)

            return RepeatedEnv(env, group_size)

        # Held-out problems keep their order, so that every evaluation asks the same ones with the same seeds.
        return ItemDataset(chosen, group, config.batch_size, None if held_out else config.seed, tasks.facts)

    return make


def _task(drawn: Drawn) -> Task:
    return Task(drawn.problem, PREFIX, drawn.program)


def _check(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise invalid("row", row, "an object with statement and tests")
    Task.from_row(row)
    settle_keys_of_question(row, _KEYS, notes)
    return row
