"""Reinforcement learning on programs that have to pass tests.

    python -m tinsmith.cookbook.recipes.code_rl.train
    python -m tinsmith.cookbook.recipes.code_rl.train model_name=Qwen/Qwen3-8B max_tokens=1024 group_size=16
    python -m tinsmith.cookbook.recipes.code_rl.train model_name=/models/mine env=problems.jsonl require_isolation=true

Without arguments the embedded model learns to write one-liners, and problems that it never trained on say how well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.code_execution import LocalSandbox
from tinsmith.cookbook.recipes.code_rl.code_rl_dataset import Tasks, env_name, groups, load_tasks
from tinsmith.cookbook.recipes.code_rl.code_rl_env import Grades
from tinsmith.cookbook.recipes.code_rl.config import DRAWN, DRAWN_LEARNING_RATE, Config
from tinsmith.cookbook.recipes.code_rl.first_lesson import FOLDER, teach
from tinsmith.cookbook.rl import RolloutEvaluator, train
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.runs.start.made_folder import recipe_folder
from tinsmith.cookbook.training import TrainResult

RECIPE = "code_rl"


def main(config: Config) -> TrainResult:
    """Train, and measure on held-out problems what was learned.

    Raises:
        UserError: a setting or a problem cannot be used.
        SandboxError: programs cannot be run, or not as `require_isolation` demands.
        TinsmithError: the service failed.
    """
    # In the config, and so in `config.json`: a run that is taken up again must not choose anew.
    config = chz.replace(config, env=env_name(config.env, config.model_name))
    if config.env == DRAWN and config.learning_rate is None:
        config = chz.replace(config, learning_rate=DRAWN_LEARNING_RATE)
    tasks = load_tasks(config)
    sandbox = LocalSandbox(config.test_limits(), config.max_parallel, require_isolation=config.require_isolation)
    print(f"sandbox   {sandbox.describe()}")
    grades = Grades(sandbox)
    held_out = groups(config, tasks, grades, held_out=True)
    answers = RolloutEvaluator(held_out, config.limits(), tasks.name, temperature=config.eval_temperature)
    # Both runs lie in it, the lesson's in a folder of its own.
    with recipe_folder(config.log_path, RECIPE) as folder:
        config = chz.replace(config, log_path=str(folder))
        if config.env == DRAWN and config.lesson_steps and config.load_checkpoint_path is None:
            lesson = teach(config, folder, [answers])
            config = chz.replace(config, load_checkpoint_path=lesson.state_path)
        result = train(config, RECIPE, groups(config, tasks, grades), evaluators=[answers])
    _show(result, folder, tasks)
    return result


def _show(result: TrainResult, folder: Path, tasks: Tasks) -> None:
    prefix = f"eval/{tasks.name}/"
    # With eval_every=0 there is no evaluation before the last.
    lesson = folder / FOLDER / "metrics.jsonl"
    columns: dict[str, Mapping[str, float]] = {"before": read_rows(result.path / "metrics.jsonl")[0]}
    if lesson.exists():
        columns = {"base model": read_rows(lesson)[0], "first lesson": read_rows(lesson)[-1]}
    columns["after"] = result.metrics
    table = Table("held-out problems", *columns, "one program for all", title=f"{len(tasks.test)} of {tasks.name}")
    for told, name in (("programs that pass", "correct"), ("programs of the right form", "format")):
        constant = tasks.constant if name == "correct" else None
        table.add_row(told, *(_percent(row.get(prefix + name)) for row in columns.values()), _percent(constant))
    Console().print(table)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
