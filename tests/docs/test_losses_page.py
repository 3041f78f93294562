"""The losses page: its table is the table of the service, and its script runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.types.facts.loss_table import LOSSES

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.mark.row(79, 203)
def test_the_table_has_every_loss_with_its_inputs_and_defaults() -> None:
    _, *rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", PAGE.partition("\n## ")[0], flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == list(LOSSES)
    reads = ""
    for name, inputs, config in rows:
        # "the same" is that of the row above.
        reads = inputs.replace("the same", reads)
        spec = LOSSES[name]
        found = set(re.findall(r"`(\w+)`", reads))
        assert found == {*spec.required, *spec.optional} - ({"logprobs"} if spec.recorded else set()), name
        defaults = dict(re.findall(r"`(\w+)`(?: \(([\d.]+)\))?", config))
        assert defaults == {key: "" if value is None else str(value) for key, value in spec.config.items()}, name


@pytest.mark.row(90, 203)
@pytest.mark.parametrize("loss_fn", ["dpo", "stable_reinforce"])
def test_the_scripts_run(loss_fn: str, tmp_path: Path) -> None:
    (snippet,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if f'"{loss_fn}"' in one]
    env = {**os.environ, "TINSMITH_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", snippet]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is Tinsmith's own") == (loss_fn == "stable_reinforce")
