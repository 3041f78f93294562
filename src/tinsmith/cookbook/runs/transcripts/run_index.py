"""`index.html` of a run's transcripts: its curves, its settings, its first and its last answers, and all pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinsmith.cookbook.runs.jsonl import read_rows, replace_text
from tinsmith.cookbook.runs.transcripts.curves import HEIGHT, WIDTH, curves_of
from tinsmith.cookbook.runs.transcripts.rendering import render
from tinsmith.cookbook.runs.transcripts.visible import visible

# What the index knows of the answers of other pages, beside them.
ANSWERS = "answers.json"
# Answers of a page that the index shows.
_SHOWN = 2
Block = Mapping[str, Any]


def note_answers(folder: Path, step: int, blocks: Sequence[Block]) -> None:
    """Keep the answers of a page, if it is the first or the last that has some.

    Args:
        folder: of the pages.
        step: of the page.
        blocks: all of the page, in order.

    Raises:
        OSError: they cannot be written.
    """
    shown = _answers(blocks)
    if not shown:
        return
    file = folder / ANSWERS
    kept = _read(file)
    now = {"step": step, "blocks": shown}
    # A run that is taken up again writes some pages anew.
    if "first" not in kept or step <= kept["first"]["step"]:
        kept["first"] = now
    kept["last"] = now
    replace_text(file, json.dumps(kept))


def write_index(folder: Path, title: str) -> None:
    """Write `index.html` from what lies in the folder of the pages and in the run's, which it is in.

    Raises:
        OSError: it cannot be written.
    """
    pages = [(int(file.stem.removeprefix("step-")), file.name) for file in folder.glob("step-*.html")]
    kept = _read(folder / ANSWERS)
    # Where one page has all the answers, they are not shown twice.
    answers = [kept[name] for name in ("first", "last") if name in kept]
    if len(answers) == 2 and answers[0]["step"] == answers[1]["step"]:
        answers.pop()
    page = render(
        "index.html",
        title=visible(title),
        pages=sorted(pages, reverse=True),
        curves=curves_of(read_rows(folder.parent / "metrics.jsonl")),
        frame=(WIDTH, HEIGHT),
        settings=_settings(folder.parent / "config.json"),
        answers=answers,
    )
    replace_text(folder / "index.html", page)


def _answers(blocks: Sequence[Block]) -> list[Block]:
    """Return the first blocks in which something was sampled, each with the line that says what it is."""
    found: list[Block] = []
    sampled = [place for place, block in enumerate(blocks) if block.get("sampled")][:_SHOWN]
    for place in sampled:
        if place and blocks[place - 1]["kind"] in ("text", "heading"):
            found.append(blocks[place - 1])
        found.append(blocks[place])
    return found


def _settings(file: Path) -> list[tuple[str, str]]:
    """Return the settings of a run that say something, and what they came to."""
    config = _read(file)
    resolved = config.pop("resolved", {})
    told = {name: value for name, value in {**config, **resolved}.items() if value not in (None, False, "")}
    return [
        (visible(name), visible(value if isinstance(value, str) else json.dumps(value))) for name, value in told.items()
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # of a page that stands alone, or that a crash cut off: the index shows what there is
    return found if isinstance(found, dict) else {}
