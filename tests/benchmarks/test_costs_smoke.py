"""The benchmark of costs against size runs with quick sizes and draws what it found; no time is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contestants import Job
from benchmarks.costs import DECODE, QUICK, TRAINING, UNIT, USUAL, measure, save_picture
from tests.benchmarks.test_targets_smoke import thread
from tests.support.checkpoints import checkpoint


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_every_point_is_measured_and_drawn(tmp_path: Path) -> None:
    job = Job(str(checkpoint("qwen3")), "cpu", "float32", rank=4, adapters=2, scratch=tmp_path)
    columns = measure(job, QUICK, repeats=1, pool=thread)
    assert [column.system for column in columns] == [TRAINING, DECODE]
    points = [f"{axis.name}: {size}" for axis in QUICK for size in axis.sizes]
    for column in columns:
        assert [row.name for row in column.rows] == points
        assert all(row.value > 0 and row.unit == UNIT and not row.higher_is_better for row in column.rows)
    save_picture(QUICK, columns, tmp_path / "costs.svg", "toy")
    drawn = (tmp_path / "costs.svg").read_text()
    for words in (TRAINING, DECODE, "tokens of context, one sequence"):
        assert words in drawn


def test_the_axes_reach_from_one_to_what_was_asked_for() -> None:
    ends = [(axis.load(axis.sizes[0]), axis.load(axis.sizes[-1])) for axis in USUAL]
    assert [(first.tenants, last.tenants) for first, last in ends] == [(1, 64), (1, 1), (1, 1)]
    assert [(first.sequences, last.sequences) for first, last in ends] == [(1, 64), (1, 256), (1, 1)]
    assert [(first.context, last.context) for first, last in ends] == [(64, 64), (64, 64), (32, 4096)]
