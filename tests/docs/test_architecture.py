"""The architecture page tells what the code is: its picture, its rooms, its diagrams."""

from __future__ import annotations

import re
from pathlib import Path

from scripts import rooms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "tinsmith"


def test_the_picture_shows_the_layers_and_arrows_of_today() -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), "run: python scripts/rooms.py"


def test_every_package_of_a_panel_is_in_its_layers() -> None:
    for panel in rooms.panels():
        folder = SOURCE.joinpath(*panel.package.split(".")[1:])
        there = {path.parent.name for path in folder.glob("*/__init__.py")}
        assert there <= set(panel.rooms), panel.package


def test_the_table_of_arrows_tells_the_rooms_and_arrows_of_today() -> None:
    told = dict(re.findall(r"^\| (engine|server|client) \| \d+ \| \d+ \| (\d+ \| \d+) \|$", PAGE, flags=re.MULTILINE))
    counted = {
        package.removeprefix("tinsmith."): f"{found} | {arrows}"
        for package, found, arrows in re.findall(r"^(\S+): (\d+) rooms, (\d+) arrows", rooms.table(), re.MULTILINE)
    }
    assert told == {package: counted[package] for package in ("engine", "server", "client")}


def test_folders_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"\b((?:client|server|scheduler|engine|types|cookbook|cluster)(?:/\w+)+)/", PAGE))
    assert {name for name in named if not (SOURCE / name).is_dir()} == set()
