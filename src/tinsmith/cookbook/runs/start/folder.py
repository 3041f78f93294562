"""The settings that a run was begun with, in its folder: it is taken up again with the same ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import chz

from tinsmith.cookbook.runs.jsonl import replace_text
from tinsmith.types.errors import UserError, invalid

# What the settings came to: a rate that is recommended for the model, its own renderer, the number of rows.
RESOLVED = "resolved"


def unusable(log_path: object, error: OSError) -> UserError:
    """Make the error of a folder that cannot hold a run."""
    return invalid("log_path", str(log_path), f"a folder that can be written ({error.strerror})")


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a JSONL file of a run's folder, and wait until they are on disk.

    For what was dear to come by, a teacher's answers for example: what the run has told is never asked for twice.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unusable(path.parent, error) from error


def describe(config: Any, recipe: str) -> dict[str, Any]:
    """Return a run's settings as JSON values, with the name of its recipe."""
    # Through JSON and back: compared later with what was written, and a tuple would not equal its list.
    return json.loads(json.dumps({"recipe": recipe, **chz.asdict(config)}, default=_plain))


def check_config(path: Path, config: Mapping[str, Any], free: frozenset[str]) -> None:
    """Compare settings with those that a run was begun with.

    Raises:
        UserError: a setting that is not free differs; the message names field, value and old value.
    """
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: got what is not JSON ({error}), expected the settings of the run") from error
    # Before its settings, which differ from those of another recipe in every line.
    if before.get("recipe") != config.get("recipe"):
        expected = f"another folder: this one holds a run of {before.get('recipe')}"
        raise invalid("log_path", str(path.parent), expected)
    # A setting that is no more: where the run had it off, it is the same run without it.
    gone = {key for key, value in before.items() if key not in config and not value}
    passed = free | gone | {RESOLVED}
    other = [key for key in (before | dict(config)) if key not in passed and before.get(key) != config.get(key)]
    if other:
        told = "; ".join(f"{key}: got {config.get(key)!r}, expected {before.get(key)!r}" for key in other)
        raise UserError(f"{told}, as the run in {path.parent} has it, or another log_path")


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a run's settings."""
    replace_text(path, json.dumps(config, indent=2, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return str(value)
