"""Runs of recipes that were killed with the code of before are taken up again by the code of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.compatibility.comparing import assert_close
from tests.compatibility.runs import KEPT, RUNS, Kept
from tests.support.recipe_runs import saved_adapter


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_a_run_of_before_ends_as_an_undisturbed_one(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command finds the newest state on record and goes on to the metrics of a run that nobody killed."""
    shutil.copytree(RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = kept.started_in(tmp_path)
    before = run.checkpoints()
    assert "goes on" in run.finish()
    expected = [json.loads(line) for line in (RUNS / kept.name / "expected_metrics.jsonl").read_text().splitlines()]
    assert len(before) > 0
    found = run.metrics()
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert_close(list(row.values()), list(wanted.values()), f"step {wanted['step']}: {list(row)}")
    assert run.checkpoints()[: len(before)] == before
    assert saved_adapter(run.final()["sampler_path"], run.home)
    assert saved_adapter(run.final()["state_path"], run.home)
