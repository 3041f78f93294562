"""Distillation: a student learns from a teacher, by its own answers, by the teacher's, or both ways for comparison.

    python -m tinsmith.cookbook.recipes.distillation.train
    python -m tinsmith.cookbook.recipes.distillation.train model_name=Qwen/Qwen3-8B teacher_model=Qwen/Qwen3-32B \
        prompts=prompts.jsonl max_tokens=2048 log_path=runs/distilled
    python -m tinsmith.cookbook.recipes.distillation.train ... method=off_policy top_k=20

Without arguments the embedded model is taught to add, and becomes the teacher of two students of its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.distillation import Domain, train_off_policy, train_on_policy
from tinsmith.cookbook.distillation.config import OF_ROLLOUTS
from tinsmith.cookbook.recipes.distillation.config import SHIPPED_LEARNING_RATE, Config
from tinsmith.cookbook.recipes.distillation.distillation_dataset import best_constant, grade_of, load_domains
from tinsmith.cookbook.recipes.distillation.shipped_teacher import make_teacher
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.runs.start.made_folder import recipe_folder
from tinsmith.cookbook.training import TrainResult
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

RECIPE = "distillation"
USUAL_BATCH_SIZE = 32
# Of the run that is compared with the one in the recipe's own folder.
OFF_POLICY = "off_policy"


def main(config: Config) -> TrainResult:
    """Make or find the teacher, distil, and show on held-out prompts what was learned.

    Raises:
        UserError: a setting or a prompt cannot be used, or a teacher does not fit the student.
        TinsmithError: the service failed, or that of a teacher.
    """
    config = _with_defaults(config)
    grade = grade_of(config.grade)
    made = config.shipped and not config.has_teacher and config.teacher_sees is None
    # Before the run has a folder: a file that cannot be read leaves nothing behind.
    domains = load_domains(config)
    prompts = sum(len(domain.prompts) for domain in domains)
    # In the config, and so in `config.json`, which says what was done.
    config = chz.replace(config, batch_size=rows_per_batch(config.batch_size, prompts, USUAL_BATCH_SIZE, "prompts"))
    # All runs lie in it; that of the student which speaks itself is the folder's own.
    with recipe_folder(config.log_path, RECIPE) as folder:
        config = chz.replace(config, log_path=str(folder))
        if made:
            teacher = make_teacher(config, folder)
            domains = [replace(domain, teacher=teacher) for domain in domains]
        students: dict[str, TrainResult] = {}
        if config.method == "both":
            other = chz.replace(config, log_path=str(folder / OFF_POLICY), method="off_policy", **OF_ROLLOUTS)
            students["off-policy"] = train_off_policy(other, f"{RECIPE}_{OFF_POLICY}", domains, grade=grade)
        if config.method == "off_policy":
            students["off-policy"] = train_off_policy(config, RECIPE, domains, grade=grade)
        else:
            students["on-policy"] = train_on_policy(config, RECIPE, domains, grade=grade)
    _show(students, domains)
    return list(students.values())[-1]


def _with_defaults(config: Config) -> Config:
    """Fill in what depends on other settings; so `config.json` says what was done."""
    found: dict[str, Any] = {}
    if config.method is None:
        found["method"] = "both" if config.shipped and not config.has_teacher else "on_policy"
    if config.shipped and config.model_name == EMBEDDED_MODEL and config.learning_rate is None:
        found["learning_rate"] = SHIPPED_LEARNING_RATE
    return chz.replace(config, **found)


def _show(students: Mapping[str, TrainResult], domains: list[Domain]) -> None:
    last = list(students.values())[-1]
    # With eval_every=0 there is no evaluation before the last.
    before = read_rows(last.path / "metrics.jsonl")[0]
    asked = sum(len(domain.held_out) for domain in domains)
    table = Table(
        "held-out prompts", "student before", *students, "teacher", "one answer for all", title=f"{asked} of them"
    )
    names = [""] if len(domains) == 1 else ["", *(f"{domain.name}/" for domain in domains)]
    for name in names:
        if f"eval/test/{name}correct" in last.metrics:
            constant = best_constant(domains[0]) if len(domains) == 1 else None
            shares = [row.get(f"eval/test/{name}correct") for row in _columns(before, students)]
            teacher = last.metrics.get(f"eval/test/{name}teacher_correct")
            table.add_row(f"{name}right answers", *map(_percent, [*shares, teacher, constant]))
    for name in ["", *(f"/{domain.name}" for domain in domains if len(domains) > 1)]:
        kls = [row.get(f"eval/test/teacher_kl{name}") for row in _columns(before, students)]
        told = f"KL to the teacher{name and f', {name[1:]}'}, nats per token"
        table.add_row(told, *("" if kl is None else f"{kl:.3f}" for kl in kls), "0", "")
    Console().print(table)


def _columns(before: Mapping[str, float], students: Mapping[str, TrainResult]) -> list[Mapping[str, float]]:
    return [before, *(result.metrics for result in students.values())]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
