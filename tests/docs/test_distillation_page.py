"""The program of the page on distillation runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "distillation.md"


@pytest.mark.slow
@pytest.mark.row(100)
def test_the_program_runs_and_measures(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
        env=os.environ | {"TINSMITH_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert 0.0 < float(done.stdout.strip().splitlines()[-1]) < 3.0
    assert (tmp_path / "runs/mine/metrics.jsonl").exists()
