"""A small distillation of sums on the embedded model, which tests vary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.distillation import DistillationConfig, Domain, Prompt, TeacherSpec

# The model itself after it has seen the answer: right nearly always, without any training.
SEES = "Context: answer={answer}\nQuestion: answer?"
ITSELF = TeacherSpec("tinsmith-tiny")
FIELDS: dict[str, Any] = {
    "batch_size": 4, "group_size": 2, "lora_rank": 4, "learning_rate": 2e-3, "max_steps": 2, "max_tokens": 6,
    "eval_every": 0, "save_every": 2, "lr_schedule": "constant",
}  # fmt: skip


def config(folder: Path, **fields: Any) -> DistillationConfig:
    return DistillationConfig(log_path=str(folder), **{**FIELDS, **fields})


def sums(count: int, split: Any = "train") -> list[Prompt]:
    rows = arithmetic.rows(split, count)
    return [Prompt([{"role": "user", "content": row["problem"]}], row["answer"]) for row in rows]


def domain(teacher: TeacherSpec = ITSELF, sees: str | None = SEES, name: str = "sums") -> Domain:
    return Domain(name, sums(16), sums(4, "held_out"), teacher, sees)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what belongs to the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in found]
