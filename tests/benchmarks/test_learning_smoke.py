"""The benchmark of learning runs with quick sizes; what is learned is not judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning import column_of, run


def test_a_seed_gives_a_curve_and_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    learned = run(1, ["batch_size=2", "group_size=2", "max_steps=2", "eval_every=1", "eval_problems=4"])
    assert learned.steps == [0, 1, 2]
    assert all(0.0 <= share <= 1.0 for share in learned.correct)
    column = column_of(learned)
    gain = column.get("gain")
    assert gain is not None
    assert gain.value == pytest.approx(100 * (learned.correct[-1] - learned.correct[0]))
    assert column.system == "seed 1"
