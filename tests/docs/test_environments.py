"""The environment that the page builds runs as it stands, in as few lines as it says, and learns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")


def play(folder: Path, *settings: str) -> list[dict[str, float]]:
    (program, *_) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "guess.py").write_text(program)
    command = [sys.executable, "guess.py", "max_turns=5", "max_tokens=16", "log_path=run", "eval_every=0", *settings]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TINSMITH_HOME": str(folder / "home")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.row(75)
def test_an_environment_of_ones_own_from_the_page_alone(tmp_path: Path) -> None:
    (program, *_) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    environment = program[program.index("class ") : program.index("def main")]
    assert len([line for line in environment.splitlines() if line.strip()]) <= 30
    rows = play(tmp_path, "max_steps=2", "group_size=2")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["env/episodes"] == 20
    assert rows[0]["env/turns"] > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(75)
def test_it_learns(tmp_path: Path) -> None:
    rows = play(tmp_path, "max_steps=15")
    assert rows[14]["env/reward"] > rows[0]["env/reward"] + 0.3
    assert rows[14]["env/turns"] < rows[0]["env/turns"]
