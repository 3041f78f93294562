"""Without the cookbook extra, whatever trains or evaluates says in one sentence what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tinsmith.cookbook.extra import PACKAGES
from tinsmith.installing import install_command

ROOT = Path(__file__).parents[2]


def python(folder: Path, missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where a package is not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    env = {"PYTHONPATH": str(folder), "TINSMITH_HOME": str(folder), "PATH": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=60, check=False)


def test_the_list_is_the_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {requirement.split(">")[0] for requirement in project["optional-dependencies"]["cookbook"]}
    assert named == set(PACKAGES)


@pytest.mark.row(108)
@pytest.mark.parametrize("missing", ["chz", "orjson"])
def test_a_recipe_ends_with_one_sentence(tmp_path: Path, missing: str) -> None:
    done = python(tmp_path, missing, "-m", "tinsmith.cookbook.recipes.sl_loop", "max_steps=1")
    assert done.returncode == 1
    said = f"the cookbook needs {missing}, which is not installed: {install_command('cookbook')}\n"
    assert done.stderr == said


@pytest.mark.parametrize("package", ["supervised", "runs", "eval", "recipes.sl_basic", "supervised.train"])
def test_an_import_says_so(tmp_path: Path, package: str) -> None:
    done = python(tmp_path, "chz", "-c", f"import tinsmith.cookbook.{package}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: the cookbook needs chz")
    assert install_command("cookbook") in last


def test_a_command_says_so_too(tmp_path: Path) -> None:
    done = python(tmp_path, "chz", "-m", "tinsmith.cli.main", "demo")
    assert done.returncode == 1
    assert install_command("cookbook") in done.stderr
    assert "Traceback" not in done.stderr


def test_renderers_do_without(tmp_path: Path) -> None:
    code = "import tinsmith.cookbook.chat, tinsmith.cookbook.renderers; print('fine')"
    done = python(tmp_path, "chz", "-c", code)
    assert done.stdout == "fine\n", done.stderr
