"""Every Python block of `docs/` runs as pasted: in order, in one interpreter, in an empty folder, offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.snippets import PAGES, ROOT, blocks_of, paste

# These run in tests that look at more than their exit: `test_readme.py`, and `tests/official/test_support_table.py`,
# which has a server.
ELSEWHERE = (ROOT / "README.md", ROOT / "docs" / "official-sdk.md")
WITH_PYTHON = {page.stem: page for page in PAGES if page not in ELSEWHERE and blocks_of(page)}
# Programs that train for minutes are given smaller settings on their command line.
ARGUMENTS = {
    "environments": ("max_turns=5", "max_tokens=16", "max_steps=1", "batch_size=2", "group_size=2"),
    "runs": ("max_steps=2",),
    "tools": ("max_turns=4", "max_tokens=40", "max_steps=1", "batch_size=2", "group_size=2"),
    "training": ("max_steps=2",),
}
ROWS = {
    "distillation": (100,),
    "environments": (75,),
    "losses": (90, 203),
    "tools": (98,),
    "training": (110,),
}
PARAMETERS = [pytest.param(name, marks=pytest.mark.row(*ROWS.get(name, ()))) for name in WITH_PYTHON]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_python_of_a_page_runs_as_pasted_and_prints_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(WITH_PYTHON[name])
    paste(blocks, monkeypatch, ARGUMENTS.get(name, ()))
    printed = iter(capsys.readouterr().out.splitlines())
    for block in blocks:
        for text in block.printed:
            assert text in printed, f"{block.place}: {text!r} was not printed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_is_one_that_runs(page: Path) -> None:
    # Indented, in capitals or under another name of the language, it would escape the test above.
    fences = re.findall(r"^[ >]*[`~]{3,} *\{?(py\w*|ipython\w*)", page.read_text(encoding="utf-8"), re.M | re.I)
    inside = sum(block.code.count("```python") for block in blocks_of(page))
    assert len(fences) - inside == len(blocks_of(page))
