"""Facts that a run stands on, noted in its folder: with others, what is carried on would silently be another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.cookbook.runs.jsonl import replace_text
from tinsmith.types.errors import UserError, invalid

# Names whose file in the folder is something else.
_TAKEN = ("config",)


def note_path(folder: Path, name: str) -> Path:
    """Return the file that holds the facts of a name.

    Raises:
        UserError: the file is taken.
    """
    if name in _TAKEN:
        raise invalid("facts", name, "another name: that file holds the run's settings")
    return folder / f"{name}.json"


def check_facts(note: Path, facts: Mapping[str, Any]) -> None:
    """Compare facts with those that were noted; where nothing was, there is nothing to compare.

    Raises:
        UserError: one differs; the message names each such fact, its value now, and the one that is held.
    """
    if not note.exists():
        return
    held = _read(note)
    now = _as_json(facts)
    name = note.stem
    told = [
        str(invalid(f"{name}.{fact}", now.get(fact), repr(held.get(fact))))
        for fact in (held | now)
        if held.get(fact) != now.get(fact)
    ]
    if told:
        raise UserError(
            f"{'; '.join(told)}, as the run in {note.parent} was begun with; to go on with others, take another "
            "log_path, and its last state as load_checkpoint_path"
        )


def write_facts(note: Path, facts: Mapping[str, Any]) -> None:
    """Note facts, in the place of older ones, in one move."""
    replace_text(note, json.dumps(facts) + "\n")


def _read(note: Path) -> dict[str, Any]:
    try:
        held = json.loads(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{note}: got what cannot be read ({error}), expected a JSON object of facts") from error
    if not isinstance(held, dict):
        raise UserError(f"{note}: got what cannot be read ({held!r}), expected a JSON object of facts")
    return held


def _as_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as they would be read again: a tuple becomes a list."""
    return json.loads(json.dumps(facts))
