"""What every recipe has: its files, the settings that all share, help, and an answer to a misspelt setting."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import chz
import pytest

from tinsmith.cookbook import recipes

ROOT = Path(recipes.__file__).parent
FOLDERS = sorted(path for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists())
FILES = sorted(path for path in ROOT.glob("*.py") if path.name != "__init__.py")
# Some folders have more commands than one, in folders of their own.
TRAINED = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("*/**/train.py"))
MODULES = [*TRAINED, *(file.stem for file in FILES)]
SHARED = ("model_name", "learning_rate", "batch_size", "log_path", "wandb_project", "base_url", "load_checkpoint_path")


def run_here(name: str, *arguments: str, patch: pytest.MonkeyPatch) -> object:
    """Run a module as a program in this process, and return its exit code; None where it ends without one."""
    patch.setattr(sys, "argv", [name, *arguments])
    # The module is run anew; that it was imported before, by another test, is what Python would warn of.
    patch.delitem(sys.modules, name, raising=False)
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.row(102)
def test_the_recipes_that_are_there() -> None:
    assert {"chat_sl", "math_rl", "preference", "prompt_distillation"} <= {folder.name for folder in FOLDERS}
    assert {"rl_basic.py", "rl_loop.py", "rl_numerics_check.py", "sl_basic.py", "sl_loop.py"} <= {
        file.name for file in FILES
    }


@pytest.mark.row(102)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recipe_folder_says_what_it_is_how_to_run_it_and_what_to_expect(folder: Path) -> None:
    files = {file.name for file in folder.iterdir()}
    assert {"README.md", "train.py"} <= files
    assert files & {f"{folder.name}_dataset.py", f"{folder.name}_env.py"}
    text = (folder / "README.md").read_text()
    assert f"python -m tinsmith.cookbook.recipes.{folder.name}.train" in text
    assert "## What to expect" in text
    assert text.count("\n|") > 3, "a table of expected numbers"


@pytest.mark.row(103)
@pytest.mark.parametrize("module", MODULES)
def test_every_recipe_takes_the_shared_settings(module: str) -> None:
    config = chz.get_nested_target(importlib.import_module(f"tinsmith.cookbook.recipes.{module}").main)
    assert set(SHARED) <= set(chz.chz_fields(config))
    config()  # every field has a default


@pytest.mark.row(104)
@pytest.mark.parametrize("module", MODULES)
def test_help_lists_every_setting_and_a_typo_is_answered_with_the_nearest(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"tinsmith.cookbook.recipes.{module}"
    config = chz.get_nested_target(importlib.import_module(name).main)
    monkeypatch.chdir(tmp_path)
    assert run_here(name, "--help", patch=monkeypatch) is None
    shown = capsys.readouterr()
    for field in chz.chz_fields(config):
        assert field in shown.out
    assert not shown.err
    assert run_here(name, "lerning_rate=1e-4", patch=monkeypatch) == 2
    (refused,) = capsys.readouterr().err.splitlines()
    assert "learning_rate" in refused
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.row(104)
def test_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinsmith.cookbook.recipes.math_rl.train"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "learning_rate" in shown.stdout
    refused = subprocess.run([*command, "lerning_rate=1e-4"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "did you mean learning_rate?" in refused.stderr
    assert not list(tmp_path.iterdir())
