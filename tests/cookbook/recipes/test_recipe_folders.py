"""What every recipe has: its files, the settings that all share, help, and an answer to a misspelt setting."""

from __future__ import annotations

import importlib
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


def run(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tinsmith.cookbook.recipes.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


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
def test_help_lists_every_setting_and_a_typo_is_answered_with_the_nearest(module: str, tmp_path: Path) -> None:
    config = chz.get_nested_target(importlib.import_module(f"tinsmith.cookbook.recipes.{module}").main)
    shown = run(module, "--help", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for name in chz.chz_fields(config):
        assert name in shown.stdout
    refused = run(module, "lerning_rate=1e-4", folder=tmp_path)
    assert refused.returncode == 2
    assert "learning_rate" in refused.stderr.splitlines()[-1]
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"
