"""A recipe without arguments, and the numbers that its README promises."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

from tinsmith.cookbook import recipes

SECONDS = 300


def run_without_arguments(recipe: str, folder: Path) -> str:
    """Run a recipe's command, with nothing but a log path, `folder/run`; return what it printed.

    It has to be done in five minutes of one processor, which a busy machine does not change.
    """
    before = _seconds_of_children()
    command = [sys.executable, "-m", f"tinsmith.cookbook.recipes.{recipe}.train", "log_path=run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert _seconds_of_children() - before < SECONDS
    return done.stdout


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def expected_numbers(recipe: str) -> dict[str, list[float]]:
    """Return the table under "What to expect": first cell to the numbers of the others, per cent as shares.

    The first cell is cut at its first comma, and code marks are taken off.
    """
    text = (Path(recipes.__file__).parent / recipe / "README.md").read_text(encoding="utf-8")
    section = text.split("## What to expect")[1].split("\n## ")[0]
    found: dict[str, list[float]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        numbers = [number for cell in cells[1:] if (number := _number(cell)) is not None]
        if line.startswith("|") and numbers:
            found[cells[0].split(",")[0].split(" against")[0].replace("`", "")] = numbers
    return found


def _number(cell: str) -> float | None:
    match = re.fullmatch(r"(-?[\d.]+)( %)?", cell)
    return None if match is None else float(match[1]) / (100 if match[2] else 1)
