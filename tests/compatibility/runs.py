"""The runs of recipes that are killed and taken up again: their settings, with paths relative to where they start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compatibility.serving import BASE, BEFORE, MODEL
from tests.support.recipe_runs import RecipeRun

RUNS = BEFORE / "run_folder"
# The name of the tiny model, for the service inside a recipe's process.
ENVIRONMENT = {"TINSMITH_MODELS": f"{MODEL}={BASE}", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Kept:
    """A run that was killed.

    Attributes:
        recipe: its module, which its folder is called after.
        rows: after so many of its metrics it was killed.
        settings: of the run; files are named as they lie in `run_folder`, where it is started.
    """

    recipe: str
    rows: int
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.recipe.split(".")[0]

    def started_in(self, folder: Path, run: str = "run", home: str = "home") -> RecipeRun:
        """Return the run as a process of a folder that is laid out as `run_folder` is; it must be the current one."""
        place = Path(self.name)
        return RecipeRun(self.recipe, place / run, folder / place / home, self.settings, ENVIRONMENT)


KEPT = (
    Kept(
        "sl_basic",
        26,
        (
            f"model_name={MODEL}", "data=rows.jsonl", "batch_size=4", "lora_rank=4", "max_steps=60", "epochs=20",
            "held_out=3", "eval_every=5", "save_every=10", "rolling_save_every=4", "lr_schedule=cosine",
            "warmup_steps=2", "learning_rate=2e-3", "adam_eps=1e-4", "samples=1", "max_tokens=8",
        ),
    ),
    Kept(
        "prompt_distillation.train",
        10,
        (
            "teacher_prompt=prompt.txt", "queries=queries.jsonl", "batch_size=4", "lora_rank=1", "epochs=6",
            "held_out=4", "eval_every=6", "save_every=0", "rolling_save_every=4", "learning_rate=2e-3",
            "adam_eps=1e-4", "samples=1", "max_tokens=12",
        ),
    ),
)  # fmt: skip


def write_data(folder: Path) -> None:
    """Write what the runs learn from."""
    words = [f"{a}{b}{c}" for a in "bdfgh" for b in "aeo" for c in ("lm", "nt")]
    chats = [
        [{"role": "user", "content": f"copy: {word}"}, {"role": "assistant", "content": word.upper()}] for word in words
    ]
    queries = [{"query": f"copy: {word}", "answer": word.upper()} for word in words[:24]]
    _write(folder / "rows.jsonl", [{"messages": chat} for chat in chats])
    _write(folder / "queries.jsonl", queries)
    (folder / "prompt.txt").write_text("Answer in upper case.\n")


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
