"""Which tests show which rows, read from the marks in their sources; what they came to, as a page of the docs."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
_ROWS = Path(__file__).with_name("rows.md")
_HEAD = """\
# What works, and which test shows it

Written by `make acceptance`, which runs everything but what needs a GPU. Part A is the mission, part B the field. A row
has passed where all its tests have that were run, and is **open** where no test shows it yet. The whole takes hours
and may be run in pieces, `pytest -m "not gpu" --hypothesis-profile=thorough --rows=acceptance.json
--rows-page=docs/acceptance.md FILE`: what was not run is named.

| part | rows | passed | open | otherwise |
|---|---|---|---|---|
"""


# By row, by the test's node id: passed, failed or skipped.
Results = Mapping[int, Mapping[str, str]]


@dataclass(frozen=True)
class Row:
    """One thing that must work.

    Attributes:
        part: A or B.
        section: heading that it stands under.
        number: of the row, for good.
        text: what must work.
    """

    part: str
    section: str
    number: int
    text: str


def read_rows() -> list[Row]:
    """Return the rows of `rows.md`, in order."""
    rows: list[Row] = []
    part = section = ""
    for line in _ROWS.read_text().splitlines():
        if heading := re.match(r"## Part (\w)", line):
            part = heading[1]
        elif line.startswith("### "):
            section = line.removeprefix("### ")
        elif item := re.match(r"(\d+)\. (.*)", line):
            rows.append(Row(part, section, int(item[1]), item[2]))
        elif line.strip() and section:
            last = rows.pop()
            rows.append(Row(last.part, last.section, last.number, f"{last.text} {line.strip()}"))
    return rows


def marked_tests(folder: Path = TESTS) -> dict[int, set[str]]:
    """Return the tests that are marked with each row, `path::name`, slow ones included, without running anything."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        # A mark of the module, or of one of the parameters of a test, counts for the file.
        marks = {row: {""} for row in _marks(_statements_outside_tests(tree))}
        for test in _tests(tree):
            for row in _marks(test.decorator_list):
                marks.setdefault(row, set()).add(f"::{test.name}")
        for row, names in marks.items():
            found[row] |= {f"{path.relative_to(folder.parent)}{name}" for name in names}
    return dict(found)


def _tests(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def _statements_outside_tests(tree: ast.Module) -> list[ast.AST]:
    return [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _marks(nodes: Iterable[ast.AST]) -> set[int]:
    """Return the numbers in `...mark.row(...)` anywhere in some nodes."""
    return {
        argument.value
        for node in nodes
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "row"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


def merged(earlier: Results, now: Results) -> dict[int, dict[str, str]]:
    """Return the results of this run and, for the tests that were not run in it, those of earlier ones.

    Tests that are gone, or are not marked with the row any more, are left out.
    """
    marked = marked_tests()
    found: dict[int, dict[str, str]] = {}
    for row in sorted({*earlier, *now}):
        still = {
            node: outcome for node, outcome in earlier.get(row, {}).items() if _is_marked(node, marked.get(row, set()))
        }
        if tests := {**still, **now.get(row, {})}:
            found[row] = tests
    return found


def _is_marked(node: str, marked: Container[str]) -> bool:
    name = _name(node)
    return name.partition("::")[0] in marked or name in marked


def _name(node: str) -> str:
    """Return `path::name` of a node id: the test itself, without its class and parameters."""
    path, _, rest = node.partition("::")
    return f"{path}::{rest.split('[')[0].rpartition('::')[2]}"


def verdict(outcomes: Iterable[str]) -> str:
    """Return what a row came to: `open` without a test, else `failed`, `passed` or `skipped`."""
    found = set(outcomes)
    if not found:
        return "open"
    return next(name for name in ("failed", "passed", "skipped") if name in found)


def page(rows: Iterable[Row], results: Results, marked: Mapping[int, Collection[str]] | None = None) -> str:
    """Return the page.

    Args:
        rows: all of them.
        results: of tests that were run.
        marked: all tests of each row, so that those that were not run are named; None takes those of this folder.
    """
    rows, tests = list(rows), marked_tests() if marked is None else marked
    verdicts = {row.number: verdict(results.get(row.number, {}).values()) for row in rows}
    lines = [_HEAD.rstrip()]
    for part in sorted({row.part for row in rows}):
        of_part = [verdicts[row.number] for row in rows if row.part == part]
        passed, still = of_part.count("passed"), of_part.count("open")
        lines.append(f"| {part} | {len(of_part)} | {passed} | {still} | {len(of_part) - passed - still} |")
    section = None
    for row in rows:
        if (row.part, row.section) != section:
            section = (row.part, row.section)
            lines += [
                "",
                f"## {row.part}: {row.section}",
                "",
                "| row | what must work | | shown by |",
                "|---|---|---|---|",
            ]
        state = verdicts[row.number]
        shown = "<br>".join([*_by_file(results.get(row.number, {})), *_not_run(results, tests, row.number)])
        text = row.text.replace("|", "\\|")
        lines.append(f"| {row.number} | {text} | {state if state == 'passed' else f'**{state}**'} | {shown} |")
    return "\n".join(lines) + "\n"


def _not_run(results: Results, marked: Mapping[int, Collection[str]], row: int) -> list[str]:
    run = {_name(node) for node in results.get(row, {})}
    # A mark of a whole file stands for the tests in it.
    left = sorted(test for test in marked.get(row, ()) if "::" in test and test not in run)
    return [f"not run: {', '.join(test.rpartition('::')[2] for test in left)}"] if left else []


def _by_file(results: Mapping[str, str]) -> list[str]:
    """Return a line per file: its name, the number of its tests, and those that have not passed by name."""
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for node, outcome in results.items():
        files[node.split("::")[0]][node] = outcome
    lines: list[str] = []
    for path, tests in sorted(files.items()):
        other = sorted(
            {
                f"{node.split('::', 1)[-1].split('[')[0]} {outcome}"
                for node, outcome in tests.items()
                if outcome != "passed"
            }
        )
        count = f"{len(tests)} test{'s' * (len(tests) != 1)}"
        lines.append(f"`{path.removeprefix('tests/')}`, {count}" + (f" ({', '.join(other)})" if other else ""))
    return lines
