"""The programs of the page on tools are as short as it says, and learn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, blocks_of

TOOLS, AGENT = (block.code for block in blocks_of(ROOT / "docs" / "tools.md"))


def play(folder: Path, program: str, *settings: str) -> list[dict[str, float]]:
    (folder / "program.py").write_text(program)
    command = [sys.executable, "program.py", "max_turns=4", "max_tokens=80", "log_path=run", "eval_every=0", *settings]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TINSMITH_HOME": str(folder / "home")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_the_first_is_short() -> None:
    assert len([line for line in TOOLS.splitlines() if line.strip()]) <= 30


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(98)
@pytest.mark.parametrize("program", [TOOLS, AGENT], ids=["tools", "agent"])
def test_it_learns(program: str, tmp_path: Path) -> None:
    rows = play(tmp_path, program, "batch_size=8", "group_size=8", "learning_rate=4e-3", "max_steps=8")
    assert rows[7]["env/reward"] > rows[0]["env/reward"] + 0.3
