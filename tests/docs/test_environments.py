"""The environment that the page builds is as short as it says, and learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, blocks_of

PROGRAM = blocks_of(ROOT / "docs" / "environments.md")[0].code


def play(folder: Path, *settings: str) -> list[dict[str, float]]:
    (folder / "guess.py").write_text(PROGRAM)
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
def test_it_has_thirty_lines_at_most() -> None:
    environment = PROGRAM[PROGRAM.index("class ") : PROGRAM.index("def main")]
    assert len([line for line in environment.splitlines() if line.strip()]) <= 30


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(75)
def test_it_learns(tmp_path: Path) -> None:
    rows = play(tmp_path, "max_steps=15")
    assert rows[14]["env/reward"] > rows[0]["env/reward"] + 0.3
    assert rows[14]["env/turns"] < rows[0]["env/turns"]
