"""The folder of a run: one holder, the settings it was begun with, rows that are whole after any crash."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import chz
import pytest

import tinsmith
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.types.errors import UserError


def config(folder: Path, **settings: object) -> RunConfig:
    return RunConfig(log_path=str(folder), **settings)  # pyright: ignore[reportArgumentType]


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


HOLDER = """
import sys
from tinsmith.cookbook.runs import Run, RunConfig
with Run(RunConfig(log_path=sys.argv[1]), "test"):
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_a_new_run_writes_its_settings_and_has_no_state(tmp_path: Path) -> None:
    with Run(config(tmp_path / "run", seed=3), "test") as run:
        assert run.last_state is None
        assert run.first_step == 0
        assert not run.is_finished(10)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["recipe"] == "test"
    assert written["seed"] == 3
    assert set(written) == {"recipe", *chz.chz_fields(RunConfig)}


def test_two_runs_on_one_log_path_are_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with pytest.raises(UserError, match=rf"log_path: got '{tmp_path}', .* pid {holder.pid} has it"):
        Run(config(tmp_path), "test")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with Run(config(tmp_path), "test"), pytest.raises(UserError, match=f"pid {os.getpid()} has it"):
        Run(config(tmp_path), "test")
    with Run(config(tmp_path), "test"):
        pass


def test_without_a_path_every_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run(RunConfig(), "test") as first, Run(RunConfig(), "test") as second:
        assert first.path != second.path
        assert {first.path.parent, second.path.parent} == {Path("runs")}
        assert first.path.name.startswith("test-")
        assert (tmp_path / second.path / "config.json").exists()


def test_a_log_path_that_cannot_hold_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"log_path: got .*/file., expected a folder that can be written \(File exists"):
        Run(config(tmp_path / "file"), "test")


def test_an_empty_log_path_is_not_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"log_path: got '', expected a folder"):
        Run(RunConfig(log_path=""), "test")
    assert list(tmp_path.iterdir()) == []


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_every_start_is_noted_with_the_code_it_ran(tmp_path: Path) -> None:
    repository, run = tmp_path / "repository", tmp_path / "run"
    repository.mkdir()
    script = repository / "script.py"
    script.write_text(HOLDER)
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "first")
    for change in ("", "# later\n"):
        script.write_text(HOLDER + change)
        subprocess.run([sys.executable, str(script), str(run)], stdin=subprocess.DEVNULL, check=True)
    first, second = rows(run / "starts.jsonl")
    assert first["git_commit"] == second["git_commit"] == git(repository, "rev-parse", "HEAD").strip()
    assert (first["git_dirty"], second["git_dirty"]) == (False, True)
    assert "diff" not in first
    assert "+# later" in (run / str(second["diff"])).read_text()
    assert first["command"] == [sys.executable, str(script), str(run)]
    assert first["tinsmith"] == tinsmith.__version__
    assert first["python"] == platform.python_version()


def test_a_script_outside_of_any_repository_has_no_commit(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HOLDER)
    subprocess.run([sys.executable, str(script), str(tmp_path / "run")], stdin=subprocess.DEVNULL, check=True)
    (row,) = rows(tmp_path / "run" / "starts.jsonl")
    assert "git_commit" not in row
    assert row["first_step"] == 0
