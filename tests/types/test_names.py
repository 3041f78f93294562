"""A name of the wire, or of a file that two packages read, stands in one module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tinsmith
from tinsmith.types.names import checkpoint_files, http_names, ids

PACKAGE = Path(tinsmith.__file__).parent
NAMES = {
    value: Path(module.__file__ or "")
    for module in (checkpoint_files, http_names)
    for name, value in vars(module).items()
    if name.isupper()
}


def _texts(file: Path) -> set[str]:
    """Every whole string of a module, without its docstrings, which may say a name in a sentence."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_is_written_once(name: str) -> None:
    files = [file for file in PACKAGE.rglob("*.py") if "proto" not in file.parts]
    assert [file for file in files if name in _texts(file)] == [NAMES[name]]


def test_ids_are_what_the_protocol_says() -> None:
    assert ids.training_run_id("s-7f3a", 0) == "s-7f3a:train:0"
    assert ids.sampling_session_id("s-7f3a", 3) == "s-7f3a:sample:3"
