"""Curves in the terminal and as pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinsmith.cookbook.plots import save_curve, save_curves, save_panels, terminal_curve


def dots(line: str) -> int:
    return sum(bin(ord(char) - 0x2800).count("1") for char in line if 0x2800 <= ord(char) < 0x2900)


def test_a_falling_line_runs_from_the_upper_left_to_the_lower_right() -> None:
    lines = terminal_curve([4.0, 3.0, 2.0, 1.0], "loss", width=4, height=4).splitlines()
    title, *plot, axis, steps = lines
    assert title.strip() == "loss"
    assert plot[0].startswith("4 ┤")
    assert plot[-1].startswith("1 ┤")
    assert [max(i for i, c in enumerate(line) if c > "\u2800") - 3 for line in plot] == [1, 2, 3, 3]
    assert axis.endswith("────")
    assert steps.split() == ["1", "4"]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0]])
def test_flat_curves_lie_on_the_ground(values: list[float]) -> None:
    _, *plot, _, _ = terminal_curve(values, "flat", width=5, height=3).splitlines()
    assert [dots(line) for line in plot] == [0, 0, 10]


def test_a_picture_is_written(tmp_path: Path) -> None:
    save_curve([3.0, 2.0, 1.0], tmp_path / "loss.png", title="t", ylabel="y")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_several_curves_are_one_picture_with_their_names_and_always_the_same_bytes(tmp_path: Path) -> None:
    curves = {"seed 0": ([0, 10, 20], [0.1, 0.3, 0.5]), "seed 1": ([0, 10], [0.2, 0.4])}
    for name in ("one.svg", "two.svg"):
        save_curves(curves, tmp_path / name, title="learning", ylabel="share")
    written = (tmp_path / "one.svg").read_text()
    assert all(f">{text}</text>" in written for text in ("learning", "share", "step", "seed 0", "seed 1"))
    assert written == (tmp_path / "two.svg").read_text()


def test_panels_stand_side_by_side_in_one_picture(tmp_path: Path) -> None:
    panels = {"score": {"with": ([0, 1], [0.1, 0.3])}, "quality": {"with": ([0, 1], [0.2, 0.1])}}
    save_panels(panels, tmp_path / "both.svg", title="rewarded")
    written = (tmp_path / "both.svg").read_text()
    assert all(f">{text}</text>" in written for text in ("rewarded", "score", "quality", "with"))
    assert written.count(">step</text>") == 2
