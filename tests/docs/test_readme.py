"""What the README shows runs as it stands, and what it links to is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.row(24, 30, 37, 38, 114)
def test_the_twelve_lines_run_and_the_model_has_learned_the_sentence(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 13
    done = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    completion, path = done.stdout.strip().splitlines()[-2:]
    assert "brown fox jumps over the lazy dog" in completion
    assert re.fullmatch(r"tinker://\S+:train:0/sampler_weights/\S+", path)


@pytest.mark.parametrize("page", re.findall(r"\]\((docs/[^)]+)\)", README))
def test_linked_pages_exist(page: str) -> None:
    assert (ROOT / page).is_file()


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
