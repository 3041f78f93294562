"""The folder of a run: one holder, the settings it was begun with, rows that are whole after any crash."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import chz
import pytest

import tinsmith
from tests.cookbook.runs import toy_recipe
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.start.code_version import code_version
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


def test_a_start_names_what_computes_and_the_settings_what_they_came_to(tmp_path: Path) -> None:
    toy_recipe.main(toy_recipe.Config(log_path=str(tmp_path), max_steps=1, batch_size=2, eval_every=0))
    (row,) = rows(tmp_path / "starts.jsonl")
    assert (row["torch"], row["transformers"]) == (version("torch"), version("transformers"))
    assert (row["device"], row["dtype"]) == ("cpu", "float32")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["learning_rate"] is None
    trains = "attention, MLP, output projection (vLLM and SGLang need it merged)"
    assert config["resolved"] == {"learning_rate": 1e-3, "steps": 1, "trains": trains, "rows": 2}
    # Taken up again, it is written anew, not compared.
    toy_recipe.main(toy_recipe.Config(log_path=str(tmp_path), max_steps=2, batch_size=2, eval_every=0))
    assert json.loads((tmp_path / "config.json").read_text())["resolved"]["steps"] == 2


def test_the_commit_is_that_of_the_users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, package = tmp_path / "project", tmp_path / "package"
    for folder in (project, package):
        folder.mkdir()
        (folder / "file.py").write_text(folder.name)
        git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", folder.name)
    commit = git(project, "rev-parse", "HEAD").strip()
    monkeypatch.chdir(project)
    monkeypatch.setattr(tinsmith, "__file__", str(package / "__init__.py"))
    main = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "__main__", main)
    # A notebook, a recipe of the package, a command of the environment: the user is in their project.
    assert code_version(tmp_path, 0)["git_commit"] == commit
    for file in (package / "file.py", Path(sys.prefix) / "bin" / "tinsmith"):
        main.__file__ = str(file)
        assert code_version(tmp_path, 0)["git_commit"] == commit
    # A script of theirs, wherever they stand.
    main.__file__ = str(project / "file.py")
    monkeypatch.chdir(tmp_path)
    assert code_version(tmp_path, 0)["git_commit"] == commit
