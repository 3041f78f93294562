"""The loop to read, and the trainer beside it: scripts, resume, the same numbers from both, and that they learn."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.cookbook.rl.sums import assert_same_rows
from tinsmith.cookbook.problems import load_problems
from tinsmith.cookbook.recipes import rl_basic, rl_loop
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.types.errors import UserError

SCRIPT = Path(rl_loop.__file__)
SMALL: dict[str, Any] = {
    "batch_size": 4, "group_size": 4, "max_tokens": 16, "lora_rank": 4, "learning_rate": 2e-3, "max_steps": 3
}  # fmt: skip


def config(folder: Path, **fields: Any) -> rl_loop.Config:
    return rl_loop.Config(**{**SMALL, "save_every": 0, "log_path": str(folder), **fields})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def run_script(*arguments: str, module: bool = False, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    how = ["-m", "tinsmith.cookbook.recipes.rl_loop"] if module else [str(SCRIPT)]
    return subprocess.run([sys.executable, *how, *arguments], capture_output=True, text=True, cwd=folder)


@pytest.mark.row(22, 103, 104)
def test_the_script_is_short_and_names_the_nearest_setting() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 160
    assert "RLTrainer" not in SCRIPT.read_text()
    done = run_script("grup_size=8")
    assert done.returncode == 2
    assert "did you mean group_size?" in done.stderr
    shown = run_script("--help").stdout
    for field in ("model_name", "env", "group_size", "learning_rate", "batch_size", "log_path", "wandb_project"):
        assert field in shown


@pytest.mark.row(22, 101, 108)
@pytest.mark.slow
@pytest.mark.parametrize("module", [False, True], ids=["file", "module"])
def test_the_script_runs_as_file_and_as_module(module: bool, tmp_path: Path) -> None:
    arguments = ["model_name=tinsmith-tiny", "batch_size=2", "group_size=4", "max_steps=2", "log_path=run"]
    done = run_script(*arguments, module=module, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout
    assert "chat with it: tinsmith chat tinker://" in done.stdout


@pytest.mark.row(110)
def test_a_stopped_run_carries_on_as_if_it_had_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = config(tmp_path / "whole", max_steps=5, save_every=2)
    rl_loop.main(whole)
    stopped = config(tmp_path / "stopped", max_steps=5, save_every=2)
    log_metrics = Run.log_metrics

    def stop_after_four(self: Run, step: int, metrics: Any) -> None:
        log_metrics(self, step, metrics)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log_metrics", stop_after_four)
        with pytest.raises(KeyboardInterrupt):
            rl_loop.main(stopped)
    rl_loop.main(stopped)
    assert "after step 2" in capsys.readouterr().out
    assert [row["step"] for row in rows_of(tmp_path / "stopped")] == list(range(5))
    assert_same_rows(rows_of(tmp_path / "stopped"), rows_of(tmp_path / "whole"))
    rl_loop.main(stopped)
    assert "is finished" in capsys.readouterr().out


@pytest.mark.row(75, 82, 84, 88, 101)
def test_its_numbers_are_those_of_the_trainer(tmp_path: Path) -> None:
    """Problems, seeds, rewards, advantages and loss are the same, so that what comes of them is."""
    rl_loop.main(config(tmp_path / "loop", epochs=2))
    basic = {**SMALL, "save_every": 0, "eval_every": 0, "epochs": 2, "log_path": str(tmp_path / "basic")}
    rl_basic.main(rl_basic.Config(**basic))
    loop, trainer = rows_of(tmp_path / "loop"), rows_of(tmp_path / "basic")
    assert any(row["train/examples"] for row in loop)
    for given, expected in zip(loop, trainer[:3], strict=True):
        assert given == pytest.approx({name: expected[name] for name in given}, rel=1e-4, abs=1e-5)
    assert trainer[3]["eval/arithmetic/episodes"] == len(load_problems().test)


def test_bad_problems_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"problem": "1+1"}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, line 1: row: got \['problem'\], expected one of answer"):
        rl_loop.main(config(tmp_path / "run", env=str(bad)))
    assert not (tmp_path / "run").exists()


@pytest.mark.row(110)
def test_a_run_is_held_to_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [json.dumps({"problem": f"{i}+1", "answer": i + 1}) + "\n" for i in range(220)]
    path.write_text("".join(rows))
    rl_loop.main(config(tmp_path / "run", env=str(path), max_steps=1))
    path.write_text("".join(rows[1:]))
    with pytest.raises(UserError, match=r"problems\.test: got 21, expected 22"):
        rl_loop.main(config(tmp_path / "run", env=str(path), max_steps=2))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("batch_size", 0, "at least 1"), ("group_size", 1, "at least 2"), ("max_tokens", 0, "at least 1")],
)
def test_numbers_out_of_range_are_refused(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{field}: got {value}, expected {expected}"):
        rl_loop.Config(**{field: value})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(22, 89, 101, 108)
@pytest.mark.parametrize("recipe", ["rl_loop", "rl_basic"])
def test_recipes_run_to_the_end_without_arguments_and_learn(recipe: str, tmp_path: Path) -> None:
    script = SCRIPT.with_name(f"{recipe}.py")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # The time of the processor: what a quiet machine takes with one thread, whatever else this one does.
    assert after.ru_utime - before.ru_utime < 300
    (run,) = (tmp_path / "runs").iterdir()
    rows = rows_of(run)
    # Every problem is new when it is asked, so that the training's own numbers are held-out ones.
    correct = [row["env/correct"] for row in rows if "env/correct" in row]
    assert fmean(correct[-10:]) - fmean(correct[:3]) > 0.25
    if recipe == "rl_basic":
        assert rows[-1]["eval/arithmetic/correct"] - rows[0]["eval/arithmetic/correct"] > 0.25
