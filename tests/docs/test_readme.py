"""What the README shows runs as it stands, and what it links to is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.snippets import PAGES, ROOT, blocks_of, paste
from tinsmith.cookbook.hyperparam_utils import get_lora_param_count

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
    for link, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not heading or heading in headings(target), f"{link}#{heading}"


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_page_is_linked() -> None:
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", TEXT)}
    assert {page for page in (ROOT / "docs").glob("*.md") if page not in linked} == set()


def test_the_memory_of_an_adapter_is_reckoned_for_its_real_size(tmp_path: Path) -> None:
    (told,) = re.findall(r"Llama-3\.1-8B, rank 32, every layer \(P = (\d+) million\)", TEXT)
    shape = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **shape, **heads}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert round(get_lora_param_count(str(tmp_path), 32) / 1e6) == int(told)


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
