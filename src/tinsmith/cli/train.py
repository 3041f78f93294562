"""`tinsmith train`: run a recipe, as `python -m` and its module would."""

from __future__ import annotations

import ast
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

import tinsmith
from tinsmith.cli.recipe_names import RECIPES
from tinsmith.types.errors import invalid

app = typer.Typer(add_completion=False)
# Everything behind the recipe's name is the recipe's, `--help` too.
_ALL_IS_THE_RECIPES = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command(context_settings=_ALL_IS_THE_RECIPES, add_help_option=False, options_metavar="")
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A name, or a Python file of your own; none lists them.")
    ] = None,
) -> None:
    """Run a recipe: `tinsmith train chat_sl data=rows.jsonl`; without a name, list them.

    Settings are `name=value`; `tinsmith train RECIPE --help` shows them.
    """
    if recipe in (None, "--help", "-h"):
        _list()
        return
    assert recipe is not None
    file = Path(recipe)
    if file.suffix == ".py":
        if not file.is_file():
            raise invalid("recipe", recipe, "a Python file that is there")
        sys.argv = [recipe, *context.args]
        sys.path.insert(0, str(file.resolve().parent))  # as `python FILE` does: it may have modules beside it
        runpy.run_path(recipe, run_name="__main__")
        return
    name = recipe.replace("-", "_")
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise invalid("recipe", recipe, f"a Python file, or one of {', '.join(RECIPES)}{meant}")
    # Imported here: the cookbook's packages are an extra.
    from tinsmith.cookbook.runs import help as recipe_help

    recipe_help.program = f"tinsmith train {name}"
    sys.argv = [recipe_help.program, *context.args]
    try:
        runpy.run_module(RECIPES[name], run_name="__main__", alter_sys=True)
    finally:
        recipe_help.program = None


def _list() -> None:
    typer.echo("tinsmith train RECIPE [name=value ...]\n")
    width = max(map(len, RECIPES))
    for name, module in RECIPES.items():
        typer.echo(f"  {name:<{width}}  {first_sentence(module)}")
    typer.echo(
        "\nEach runs offline on the embedded model; model_name=FOLDER_OR_HUB_ID takes another.\n"
        "tinsmith train RECIPE --help shows its settings. RECIPE may be a Python file of your own."
    )


def first_sentence(module: str) -> str:
    """Return how a module describes itself, read from its file: importing a recipe takes seconds."""
    path = Path(tinsmith.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return told.splitlines()[0] if told else ""
