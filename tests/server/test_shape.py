"""The shape of the server's code: what its functions and constructors may take."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tinsmith.server

ROOT = Path(tinsmith.server.__file__).parent
# More, and the arguments belong together in one object.
MOST_PARAMETERS = 5


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function that is written out, nested ones too; the constructors of dataclasses and rows are generated."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = [argument.arg for argument in named if argument is not None]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def test_nobody_takes_more_than_five_parameters() -> None:
    found = list(functions())
    assert len(found) > 300, "the walk finds the functions of the server"
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}({', '.join(parameters(function))})"
        for path, function in found
        if len(parameters(function)) > MOST_PARAMETERS
    ]
    assert long == []
