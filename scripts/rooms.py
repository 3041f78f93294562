"""Draw docs/rooms.svg: the layers that import-linter holds, and the arrows between them that the code really has.

    python scripts/rooms.py            # writes the picture
    python scripts/rooms.py --table    # how many imports cross from one room to another, and how many pairs of rooms

The rows are the layers of the contracts in pyproject.toml, so that the picture cannot tell another story than the
check. An arrow is drawn only where it says something new: where A imports B and B imports C, an arrow from A to C is
left out, and so are arrows to the small modules at the foot, which every room may use. A test draws the picture again
and compares.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import grimp
import networkx

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "rooms.svg"

# Pixels. A character of the font below is about 7 wide.
_BOX_HEIGHT, _ROW, _GAP, _MARGIN, _TITLE = 26, 54, 24, 16, 34
_CHARACTER, _PADDING = 7.2, 18

# Small modules that every room above may use; arrows to them would hide the others.
_FOOT = {
    *("devices", "faults", "hub", "jobs", "logs", "models", "settings", "threads", "version"),
    *("answers", "datasets", "extra", "hyperparam_utils", "installed", "notices", "plots", "schedules"),
    *("tokenizer_utils", "utils", "words"),
}


@dataclass(frozen=True)
class Panel:
    """A package with its rooms, top layer first."""

    package: str
    layers: tuple[tuple[str, ...], ...]

    @property
    def rooms(self) -> list[str]:
        """All rooms, by their short names."""
        return [room for layer in self.layers for room in layer]


def panels() -> list[Panel]:
    """Return what pyproject.toml says: the whole package, then each package that has layers of its own."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: list[Panel] = []
    for contract in contracts:
        if contract["type"] == "layers":
            package = contract.get("containers", ["tinsmith"])[0]
            layers = [[_short(name.strip(), package) for name in layer.split("|")] for layer in contract["layers"]]
            found.append(Panel(package, tuple(map(tuple, layers))))
    return found


def _short(name: str, package: str) -> str:
    return name.strip("()").removeprefix(f"{package}.")


def imports(graph: grimp.ImportGraph, panel: Panel) -> dict[tuple[str, str], int]:
    """Return how many imports of modules cross from one room to another."""
    crossing: dict[tuple[str, str], int] = {}
    for importer in panel.rooms:
        for module in _modules(graph, f"{panel.package}.{importer}"):
            for imported in graph.find_modules_directly_imported_by(module):
                room = _room_of(imported, panel)
                if room is not None and room != importer:
                    crossing[importer, room] = crossing.get((importer, room), 0) + 1
    return crossing


def _modules(graph: grimp.ImportGraph, room: str) -> set[str]:
    return {room, *graph.find_descendants(room)} if room in graph.modules else set()


def _room_of(module: str, panel: Panel) -> str | None:
    if module == panel.package == "tinsmith":
        return "client"  # `import tinsmith` is the SDK's face
    inside = module.removeprefix(f"{panel.package}.")
    room = inside.split(".")[0]
    return room if inside != module and room in panel.rooms else None


def arrows(crossing: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the arrows without those that follow from others, in alphabetical order."""
    graph = networkx.DiGraph(sorted(pair for pair in crossing if pair[1] not in _FOOT))
    return sorted(networkx.transitive_reduction(graph).edges)


def draw() -> str:
    """Return the picture: one panel beside the other, as SVG."""
    graph = grimp.build_graph("tinsmith", cache_dir=None)
    parts: list[str] = []
    x = height = 0.0
    for panel in panels():
        width, tall, drawn = _draw_panel(panel, arrows(imports(graph, panel)), x)
        parts += drawn
        x += width + _MARGIN
        height = max(height, tall)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:.0f}" height="{height:.0f}" '
        'font-family="DejaVu Sans Mono, monospace" font-size="12">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#666"/></marker></defs>'
    )
    ground = f'<rect width="{x:.0f}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, marker, ground, *parts, "</svg>", ""])


def _draw_panel(panel: Panel, edges: list[tuple[str, str]], left: float) -> tuple[float, float, list[str]]:
    """Draw a panel; return its width, its height and its elements."""
    rows = [sum(_width(room) for room in layer) + _GAP * (len(layer) - 1) for layer in panel.layers]
    width = max(*rows, _width(panel.package)) + 2 * _MARGIN
    places = dict(_places(panel, rows, left, width))
    height = _TITLE + _ROW * len(panel.layers) + _MARGIN
    parts = [
        f'<rect x="{left + 4:.0f}" y="4" width="{width - 8:.0f}" height="{height - 8:.0f}" fill="#f6f6f2" rx="6"/>',
        _text(panel.package, left + width / 2, 24, bold=True),
    ]
    # Arrows first, so that boxes lie on top of those that pass behind them.
    parts += [_arrow(places[a], places[b]) for a, b in edges]
    for room, (x, y, wide) in places.items():
        box = f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{_BOX_HEIGHT}" rx="4"'
        parts += [f'{box} fill="white" stroke="#333"/>', _text(room, x + wide / 2, y + 17)]
    return width, height, parts


def _places(
    panel: Panel, rows: list[float], left: float, width: float
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    for index, (layer, row) in enumerate(zip(panel.layers, rows, strict=True)):
        x = left + (width - row) / 2
        for room in layer:
            yield room, (x, _TITLE + _ROW * index, _width(room))
            x += _width(room) + _GAP


def _width(text: str) -> float:
    return len(text) * _CHARACTER + _PADDING


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x1, y1 = start[0] + start[2] / 2, start[1] + _BOX_HEIGHT
    x2, y2 = end[0] + end[2] / 2, end[1]
    # An arrow that passes rows bends out to the side, so that it is seen beside the boxes in between.
    bend = 0 if y2 - y1 < _ROW else 22 + (y2 - y1) / 5
    middle = f"{x1 + bend:.0f} {(y1 + y2) / 2:.0f}"
    return (
        f'<path d="M{x1:.0f} {y1:.0f} Q{middle} {x2:.0f} {y2:.0f}" fill="none" stroke="#666" marker-end="url(#tip)"/>'
    )


def _text(text: str, x: float, y: float, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle"{weight}>{escape(text)}</text>'


def table() -> str:
    """Return, per package: rooms, pairs of rooms with an arrow, and imports that cross."""
    graph = grimp.build_graph("tinsmith", cache_dir=None)
    lines: list[str] = []
    for panel in panels():
        crossing = imports(graph, panel)
        total = sum(crossing.values())
        lines.append(f"{panel.package}: {len(panel.rooms)} rooms, {len(crossing)} arrows, {total} imports")
        lines += [f"  {a} -> {b}: {count}" for (a, b), count in sorted(crossing.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    if "--table" in sys.argv[1:]:
        print(table())
    else:
        PICTURE.write_text(draw(), encoding="utf-8")
