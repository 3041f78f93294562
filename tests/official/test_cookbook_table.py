"""Every recipe of the official cookbook is run, or started to see what it needs; the page has a table of them.

`python -m tests.official.test_cookbook_table` writes the table.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.official.cookbook import Recipe, read_lines
from tests.official.cookbook_table import PACKAGE, RECIPES, Needs, Runs, render, scripts_of_the_package
from tests.support.live_server import LiveServer

pytestmark = pytest.mark.row(202)

PAGE = Path(__file__).parents[2] / "docs" / "official-cookbook.md"
_TABLE = re.compile(r"\| recipe \| here \|.*?\n(?=\n)", re.DOTALL)


def test_the_page_is_current() -> None:
    assert _TABLE.findall(PAGE.read_text()) == [render()], "run: python -m tests.official.test_cookbook_table"


def test_every_script_of_the_package_has_a_row() -> None:
    assert scripts_of_the_package() == set(RECIPES)


def start(server: LiveServer, desk: Path, name: str) -> Recipe:
    """Return a recipe with the arguments of its row."""
    return Recipe(server, desk, "-m", f"{PACKAGE}.{name}", *RECIPES[name].arguments.split())


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if isinstance(row, Runs)])
def test_it_runs(name: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    row = RECIPES[name]
    assert isinstance(row, Runs)
    if row.first is not None:
        start(qwen_server, qwen_desk, row.first).run(timeout_s=400)
    start(qwen_server, qwen_desk, name).run(timeout_s=800)
    if not row.leaves:
        return
    (left,) = qwen_desk.glob(row.leaves)
    if left.is_file():
        assert left.stat().st_size
        return
    assert read_lines(left / "metrics.jsonl")
    final = read_lines(left / "checkpoints.jsonl")[-1]
    assert final["name"] == "final"
    with qwen_server.service() as service:
        assert service.create_training_client_from_state(final["state_path"]).result(timeout=60).model_id


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if isinstance(row, Needs)])
def test_it_says_what_it_needs(name: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    row = RECIPES[name]
    assert isinstance(row, Needs)
    assert row.says in start(qwen_server, qwen_desk, name).run_until_it_fails()


if __name__ == "__main__":
    PAGE.write_text(_TABLE.sub(lambda _: render(), PAGE.read_text()))
