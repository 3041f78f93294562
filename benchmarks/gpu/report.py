"""A step's results in a few lines, as soon as they are there: what was reached, and of which ceiling that is how much.

Only the standard library: it runs on a machine that has not got the rest yet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Which ceiling bounds which figure of a profile.
_PRODUCT, _COPY = "matrix product, bfloat16", "copy, read and written"


def lines(result: Path, ceilings: Path) -> list[str]:
    """Describe what a step wrote.

    Args:
        result: JSON of the ceilings, of a profile or of a comparison.
        ceilings: JSON of the ceilings, which may be missing.
    """
    found = json.loads(result.read_text())
    if "systems" in found:
        return _of_systems(found["systems"])
    known = _values(json.loads(ceilings.read_text())["systems"]) if ceilings.exists() else {}
    return _of_profile(found, known)


def _values(systems: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    return {row["name"]: row["value"] for rows in systems.values() for row in rows}


def _of_systems(systems: dict[str, list[dict[str, Any]]]) -> list[str]:
    *others, ours = systems.values()
    if not others:
        return [f"{row['name']}: {_number(row['value'])} {row['unit']}" for row in ours]
    before = {row["name"]: row["value"] for row in others[0]}
    told: list[str] = []
    for row in ours:
        beside = before.get(row["name"])
        ratio = f", {row['value'] / beside:.2f} times {next(iter(systems))}'s {_number(beside)}" if beside else ""
        told.append(f"{row['name']}: {_number(row['value'])} {row['unit']}{ratio}")
    return told


def _of_profile(found: dict[str, Any], ceilings: dict[str, float]) -> list[str]:
    training, decode = found["training"], found["decode"]
    told = [
        f"training: {_number(training['tokens/s'])} tokens/s, "
        + _of(training["TFLOP/s"], "TFLOP/s", ceilings.get(_PRODUCT)),
        f"decode: {_number(decode['ms/step'])} ms a step, {_number(decode['tokens/s'])} tokens/s, "
        + _of(decode["GB/s of weights"], "GB/s of weights", ceilings.get(_COPY)),
    ]
    if "peak memory, GB" in found:
        told.append(f"peak memory: {found['peak memory, GB']:.1f} GB")
    return told


def _of(value: float, unit: str, ceiling: float | None) -> str:
    share = f" ({value / ceiling:.0%} of what was measured)" if ceiling else ""
    return f"{_number(value)} {unit}{share}"


def _number(value: float) -> str:
    """Four digits, never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
