"""Every command that a page shows is one that there is: module, settings, subcommands and options are known."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.docs.snippets import PAGES, ROOT
from tinsmith.cli.main import app
from tinsmith.cookbook import runs
from tinsmith.cookbook.eval import run_inspect
from tinsmith.cookbook.runs import command


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the shell blocks of a page and in its sentences."""
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield from commands_in(block)
    for line in re.findall(r"`((?:OMP_NUM_THREADS=1 )?(?:python -m|tinsmith) [^`]+)`", text):
        yield from commands_in(line.removeprefix("OMP_NUM_THREADS=1 "))


def commands_in(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block."""
    # What stands for an address that only the reader knows, and for further settings.
    block = re.sub(r"tinker://(…|\.\.\.)/", "tinker://RUN/", block)
    block = re.sub(r"tinker://(…|\.\.\.)", "tinker://RUN/weights/NAME", block).replace(" ... ", " ")
    command = ""
    for line in block.replace("\\\n", " ").splitlines(keepends=True):
        command += line
        # An open quote goes on in the next line.
        if command.count('"') % 2 == 0:
            yield shlex.split(command, comments=True)
            command = ""


def usage_of(module: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a module's docstring shows, which `--help` prints."""
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    yield from commands_in("\n".join(re.findall(r"^    (python -m .*(?:\\\n.*)*)$", told, re.MULTILINE)))


def everything() -> dict[Path, list[list[str]]]:
    # What must work one day is on the page of acceptance, too.
    pages = {page: list(commands_of(page.read_text(encoding="utf-8"))) for page in PAGES if page.stem != "acceptance"}
    return pages | {module: list(usage_of(module)) for module in (ROOT / "src/tinsmith/cookbook").rglob("*.py")}


EVERYTHING = everything()


def shown(start: str) -> list[Any]:
    # Once each: several pages show the same.
    once = {" ".join(words): (place, words) for place, found in EVERYTHING.items() for words in found}
    return [
        pytest.param(words, id=f"{place.relative_to(ROOT)}: {line}")
        for line, (place, words) in once.items()
        if line.startswith(start)
    ]


@pytest.mark.parametrize("words", shown("python -m tinsmith."))
def test_a_recipe_that_a_page_starts_knows_its_settings(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def run_recipe(main: Callable[..., object], config_class: type[Any], *_: object) -> None:
        started.append(command.parse(config_class, sys.argv[1:]))

    for place in (runs, command, run_inspect):
        monkeypatch.setattr(place, "run_recipe", run_recipe, raising=False)
    _, _, module, *settings = words
    monkeypatch.setattr(sys, "argv", [module, *settings])
    monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert len(started) == 1


@pytest.mark.parametrize("words", shown("python -m benchmarks."))
def test_a_benchmark_that_a_page_names_is_there(words: list[str]) -> None:
    assert importlib.util.find_spec(words[2]) is not None


@pytest.mark.parametrize("words", shown("tinsmith "))
def test_a_command_that_a_page_shows_is_one_of_ours(words: list[str]) -> None:
    found: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(found, "get_command"):
        name, *rest = rest
        found = found.get_command(typer.Context(found), name)
        assert found is not None, name
    # Reads the arguments and calls nothing; a sentence may name a command without them.
    if rest:
        found.make_context(found.name, rest)


def test_there_are_such_commands() -> None:
    assert len(shown("python -m tinsmith.")) > 20
    assert len(shown("python -m benchmarks.")) > 5
    assert len(shown("tinsmith ")) > 10
