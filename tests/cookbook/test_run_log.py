"""The folder of a run: taken up again, cut to the saved state, guarded against other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinsmith.cookbook.run_log import RunLog
from tinsmith.types.errors import UserError

CONFIG = {"rank": 8, "max_steps": 10}


def test_a_new_run_writes_its_config_and_has_no_state(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", "test", CONFIG)
    assert log.last_state is None
    assert not log.is_finished(10)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG


@pytest.mark.row(60)
def test_metrics_after_the_last_state_are_dropped_and_done_anew(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "test", CONFIG)
    for step in range(5):
        log.log_metrics(step, {"nll": float(step)})
        if step == 2:
            log.log_state(3, "tinker://r/weights/3")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "nl')  # the process was killed while it wrote
    again = RunLog(tmp_path, "test", CONFIG)
    assert again.last_state == (3, "tinker://r/weights/3")
    assert [row["step"] for row in again.read("metrics.jsonl")] == [0, 1, 2]
    again.log_metrics(3, {"nll": 3.5})
    assert [row["nll"] for row in again.read("metrics.jsonl")] == [0.0, 1.0, 2.0, 3.5]


def test_a_finished_run_knows_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "test", CONFIG)
    log.log_state(10, "tinker://r/weights/10")
    assert not log.is_finished(10)
    log.log_sampler(10, "tinker://r/sampler_weights/10")
    again = RunLog(tmp_path, "test", CONFIG)
    assert again.is_finished(10)
    assert not again.is_finished(11)
    with pytest.raises(UserError, match="steps: got 9, expected at least 10"):
        again.is_finished(9)


def test_other_settings_are_refused_except_free_ones(tmp_path: Path) -> None:
    RunLog(tmp_path, "test", CONFIG, free=("max_steps",)).log_state(1, "tinker://r/weights/1")
    RunLog(tmp_path, "test", CONFIG | {"max_steps": 20}, free=("max_steps",))
    with pytest.raises(UserError, match=r"rank: got 16, expected 8, as the run in .* has it, or another log_path"):
        RunLog(tmp_path, "test", CONFIG | {"rank": 16}, free=("max_steps",))
    assert json.loads((tmp_path / "config.json").read_text())["rank"] == 8


def test_settings_may_be_corrected_while_nothing_is_saved(tmp_path: Path) -> None:
    RunLog(tmp_path, "test", CONFIG).log_metrics(0, {"nll": 1.0})
    corrected = RunLog(tmp_path, "test", CONFIG | {"rank": 16})
    assert json.loads((tmp_path / "config.json").read_text())["rank"] == 16
    assert corrected.read("metrics.jsonl") == []


def test_without_a_path_a_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(None, "test", CONFIG)
    assert log.path.parent == Path("runs")
    assert log.path.name.startswith("test-")
    assert (tmp_path / log.path / "config.json").exists()
