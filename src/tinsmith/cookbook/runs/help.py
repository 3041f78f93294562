"""`--help` of a recipe: what it does, and every setting with its type, its default and its meaning."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import chz
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinsmith.cookbook.runs.fields import typed, words
from tinsmith.cookbook.runs.run_config import RunConfig

# Of a page that is not read on a terminal.
_WIDTH = 120
# How the recipe was started, where it was not by its own module: `tinsmith train` says so.
program: str | None = None


def show_help(
    main: Callable[[Any], object], config_class: type[object], recipe: str, aliases: Mapping[str, str]
) -> None:
    """Print a recipe's help: the docstring of its module, its own settings, and those that all recipes share."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(f"{recipe}: {inspect.getdoc(inspect.getmodule(main)) or ''}\n", markup=False)
    console.print(f"usage: {_program()} [name=value ...]", markup=False)
    shared = [name for name in chz.chz_fields(RunConfig) if name in chz.chz_fields(config_class)]
    own = [name for name in _special_first(config_class) if name not in shared]
    for title, names in (("settings of this recipe", own), ("settings of every recipe", shared)):
        if names:
            console.print(f"\n[bold]{title}[/]")
            console.print(_table(config_class, names, aliases))


def _special_first(config_class: type[object]) -> list[str]:
    """Return the fields of a config, those first that the class itself adds, then those of its bases in turn."""
    bases = [base for base in config_class.__mro__ if chz.is_chz(base)]
    added_by = {name: place for place, base in enumerate(bases) for name in chz.chz_fields(base)}
    return sorted(chz.chz_fields(config_class), key=added_by.__getitem__)


def _table(config_class: type[object], names: list[str], aliases: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False, pad_edge=False)
    table.add_column(overflow="fold", max_width=42)
    table.add_column(overflow="fold")
    defaults = config_class()
    for name in names:
        field = chz.chz_fields(config_class)[name]
        also = [alias for alias, meant in aliases.items() if meant == name]
        setting = Text.assemble("  ", (name, "bold cyan"), f"={typed(getattr(defaults, name))}")
        expected = words(field.final_type) + (f"; also {', '.join(also)}" if also else "")
        table.add_row(setting, Text.assemble(f"{field._doc} ", (f"({expected})", "dim")))
    return table


def _program() -> str:
    if program is not None:
        return program
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else f"python {sys.argv[0]}"
