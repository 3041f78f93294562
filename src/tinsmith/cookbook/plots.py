"""A curve as text for the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Bits of a braille character by (row, column) of its 4 × 2 dots, added to U+2800.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def terminal_curve(values: Sequence[float], title: str, *, width: int = 64, height: int = 10) -> str:
    """Return a curve over steps 1, 2, ... drawn with braille dots, 2 × 4 to a character.

    Args:
        values: at least one finite number.
        title: written above.
        width: of the plot in characters, without its axis.
        height: of the plot in lines.
    """
    low, high = min(values), max(values)
    columns, rows = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x in range(columns):
        # Interpolated: there are seldom as many steps as columns.
        place = x * (len(values) - 1) / (columns - 1)
        left = min(int(place), len(values) - 2) if len(values) > 1 else 0
        value = values[left] + (place - left) * (values[min(left + 1, len(values) - 1)] - values[left])
        y = round((high - value) / (high - low) * (rows - 1)) if high > low else rows - 1
        # A vertical stroke joins the dot to the one before, so that a steep fall is a line, not a gap.
        start = y if before is None else before
        for dot in range(min(start, y), max(start, y) + 1):
            cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
        before = y
    labels = {0: f"{high:.3g}", height - 1: f"{low:.3g}"}
    margin = max(map(len, labels.values()))
    lines = [
        f"{labels.get(number, ''):>{margin}} ┤" + "".join(chr(0x2800 + cell) for cell in row)
        for number, row in enumerate(cells)
    ]
    steps = f"1{len(values):>{width - 1}}"
    return "\n".join(
        [f"{'':>{margin}}  {title}", *lines, f"{'':>{margin}} └" + "─" * width, f"{'':>{margin}}  {steps}"]
    )


def save_curve(values: Sequence[float], path: Path, *, title: str, ylabel: str) -> None:
    """Write a curve over steps 1, 2, ... as a picture; the suffix of `path` says which kind."""
    save_curves({"": (range(1, len(values) + 1), values)}, path, title=title, ylabel=ylabel)


Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def save_curves(curves: Curves, path: Path, *, title: str, ylabel: str) -> None:
    """Write several curves as a picture; the same curves give the same bytes.

    Args:
        curves: steps and values by name; the legend has the names.
        path: its suffix says which kind of picture.
        title, ylabel: written above, and beside the values.
    """
    save_panels({ylabel: curves}, path, title=title)


def save_panels(panels: Mapping[str, Curves], path: Path, *, title: str) -> None:
    """Write several plots over the same steps side by side.

    Args:
        panels: the curves of each plot, by what its values are.
        path: its suffix says which kind of picture.
        title: written above all of them.
    """
    figure = Figure(figsize=(7 if len(panels) == 1 else 5 * len(panels), 4), layout="constrained")
    # A canvas of its own, not pyplot: no display is looked for, and no state of a notebook is changed.
    FigureCanvasAgg(figure)
    for number, (ylabel, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, label=name)
        axes.set(title=title if len(panels) == 1 else "", xlabel="step", ylabel=ylabel)
        axes.grid(alpha=0.3)
        if any(curves):
            axes.legend()
    if len(panels) > 1:
        figure.suptitle(title)
    # Text as text makes an SVG a tenth as large; salt and date would differ each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tinsmith"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
