"""`tinsmith train`: every recipe by its name, its help, its settings, and files of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tinsmith
from tinsmith.cli.main import app
from tinsmith.cli.recipe_names import RECIPES
from tinsmith.cli.train import first_sentence

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_every_recipe_has_a_name_and_a_line() -> None:
    room = Path(tinsmith.__file__).parent / "cookbook" / "recipes"
    runnable = [path for path in room.rglob("*.py") if "    run_recipe(main" in path.read_text()]
    modules = {".".join(path.relative_to(room.parents[2]).with_suffix("").parts) for path in runnable}
    assert modules == set(RECIPES.values())
    listed = runner.invoke(app, ["train"]).output
    assert listed == runner.invoke(app, ["train", "--help"]).output
    lines = {line.split()[0]: line for line in listed.splitlines() if line.startswith("  ")}
    assert list(lines) == list(RECIPES)
    for name, module in RECIPES.items():
        assert first_sentence(module).endswith((".", "?"))
        assert first_sentence(module) in lines[name]


def test_help_of_every_recipe_loads_neither_torch_nor_transformers() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from tinsmith.cli.main import app
for name in {list(RECIPES)!r}:
    done = CliRunner().invoke(app, ["train", name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"usage: tinsmith train {{name}} [name=value ...]" in done.output
    assert "model_name=tinsmith-tiny" in done.output
print([m for m in ("torch", "transformers", "datasets", "fastapi", "tinsmith.server") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sl_loop", "lr=x"], 2, "sl_loop: learning_rate: got 'x', expected a number or None"),
        (["sl-loop", "--lora-rank", "0"], 2, "sl_loop: lora_rank: got 0, expected 1 to 256"),
        (["chat_s"], 1, "(did you mean chat_sl?)"),
        (["mine.py"], 1, "error: recipe: got 'mine.py', expected a Python file that is there"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], code: int, said: str) -> None:
    result = runner.invoke(app, ["train", *arguments])
    assert result.exit_code == code
    assert result.output.count("\n") == 1
    assert said in result.output


def test_a_file_of_ones_own_is_run_as_python_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    (tmp_path / "beside_it.py").write_text("WORD = 'found'\n")
    file = tmp_path / "mine.py"
    file.write_text("import sys, beside_it\nif __name__ == '__main__':\n    print(beside_it.WORD, sys.argv[1:])\n")
    result = runner.invoke(app, ["train", str(file), "seed=1", "--help"])
    assert result.output == "found ['seed=1', '--help']\n"
