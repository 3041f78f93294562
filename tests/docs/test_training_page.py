"""The trainer that the training page shows is short, learns, and is taken up again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.snippets import ROOT, blocks_of

(SNIPPET,) = [block.code for block in blocks_of(ROOT / "docs/training.md") if "__main__" in block.code]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.slow
@pytest.mark.row(60, 110)
def test_the_trainer_of_one_s_own_learns_and_is_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "by_heart.py").write_text(SNIPPET)

    def run(log_path: str, *settings: str) -> str:
        command = [sys.executable, "by_heart.py", f"log_path={log_path}", "lr_schedule=constant", *settings]
        env = {**os.environ, "TINSMITH_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "chat with it: tinsmith chat tinker://" in run("whole", "max_steps=8")
    rows = rows_of(tmp_path / "whole")
    assert rows[7]["train/nll"] < rows[0]["train/nll"]
    run("cut", "max_steps=5")
    assert "goes on" in run("cut", "max_steps=8")
    assert rows_of(tmp_path / "cut") == rows


def test_it_is_short() -> None:
    code = [line for line in SNIPPET.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(code) <= 35
