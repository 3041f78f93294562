"""The benchmark of distillation with quick sizes; what is learned is not judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.distillation import column_of, draw, run


@pytest.mark.slow
@pytest.mark.row(100)
def test_a_seed_gives_curves_of_both_students_and_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    sizes = ["batch_size=2", "group_size=2", "max_steps=2", "eval_every=1", "held_out=4", "teacher_steps=2", "drawn=8"]
    found = run(1, tmp_path, sizes)
    assert {method: [row["step"] for row in rows] for method, rows in found.items()} == {
        "off-policy": [0, 1, 2],
        "on-policy": [0, 1, 2],
    }
    # Both students begin as the same model, and are asked the same.
    first = [rows[0]["eval/test/teacher_kl"] for rows in found.values()]
    assert first[0] == pytest.approx(first[1], abs=1e-4)
    column = column_of(1, found)
    last = column.get("KL: on-policy")
    assert last is not None
    assert last.value == found["on-policy"][-1]["eval/test/teacher_kl"]
    draw([found], tmp_path)
    assert {path.name for path in tmp_path.glob("*.svg")} == {"distillation_kl.svg", "distillation_correct.svg"}
    # What lies there is taken as it is.
    assert run(1, tmp_path, sizes) == found
