"""What the README shows runs as it stands, and what it links to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.snippets import PAGES, ROOT, blocks_of, paste

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.mark.row(24, 30, 37, 38, 114)
def test_the_twelve_lines_run_and_the_model_has_learned_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks_of(README)
    assert len([line for line in snippet.code.splitlines() if line.strip()]) <= 13
    paste([snippet], monkeypatch)
    completion, path = capsys.readouterr().out.strip().splitlines()[-2:]
    assert "brown fox jumps over the lazy dog" in completion
    assert re.fullmatch(r"tinker://\S+:train:0/sampler_weights/\S+", path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.row(107)
def test_the_table_how_to_choose_has_every_recipe() -> None:
    (table,) = re.findall(r"\| you want to \| take \|\n((?:\|.*\n)+)", TEXT)
    recipes = ROOT / "src/tinsmith/cookbook/recipes"
    names = {path.parent.name for path in recipes.glob("*/train.py")} | {path.stem for path in recipes.glob("[!_]*.py")}
    assert {name for name in names if name not in table} == set()


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
