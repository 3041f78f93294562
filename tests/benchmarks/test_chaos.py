"""Chaos: kills, lost answers and a full disk change nothing that a client or a checkpoint can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos.__main__ import chaos
from benchmarks.chaos.findings import Difference, Outcome, recoveries


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.row(11, 210)
def test_nothing_is_lost_doubled_or_changed(tmp_path: Path) -> None:
    column, sound, found = chaos(tmp_path, kills=8, clients=2, seed=1, loss=0.01)
    assert sound, (found, column.rows)
    kills = column.get("kills with signal 9")
    assert kills is not None
    assert kills.value == 8


def outcome(**changes: object) -> Outcome:
    tensors = {"adapter_model.safetensors: a": np.array([1.0, -2.0], np.float32)}
    fields = {"steps": 2, "losses": [3.0, 2.0], "tokens": [[1, 2], [3]], "tensors": tensors} | changes
    return Outcome(**fields)  # pyright: ignore[reportArgumentType]


def test_equal_runs_are_sound() -> None:
    assert Difference.of(outcome(), outcome()) == Difference(0.0, 0, 0.0)
    assert Difference.of(outcome(), outcome()).is_sound


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": [3.0]},
        {"losses": [3.0, 2.1]},
        {"losses": [3.0, float("nan")]},
        {"tokens": [[1, 2], [4]]},
        {"tokens": [[1, 2]]},
        {"tensors": {"adapter_model.safetensors: a": np.array([1.0, -2.00001], np.float32)}},
        {"tensors": {"adapter_model.safetensors: a": np.array([1.0, np.nan], np.float32)}},
        {"tensors": {}},
    ],
)
def test_what_was_lost_or_changed_is_seen(changes: dict[str, object]) -> None:
    assert not Difference.of(outcome(**changes), outcome()).is_sound
    assert not Difference.of(outcome(), outcome(**changes)).is_sound


def test_a_recovery_lasts_until_the_first_step_that_was_asked_for_after_the_kill(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("0 2\n2 12\n12 13\n")  # its second step was asked for before the kill at 5
    other.write_text("1 6\n6 14\n")
    # The kill at 7 is overtaken by the one at 8; the one at 20 had no step after it.
    assert recoveries([5.0], [one, other]) == [8.0]
    assert recoveries([5.0, 7.0, 8.0], [one, other]) == [5.0]
    assert recoveries([20.0], [one, other]) == []
