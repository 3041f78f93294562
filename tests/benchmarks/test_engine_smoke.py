"""The engine benchmark runs with quick sizes, and all of its sides compute the same losses; no time is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contestants import Job
from benchmarks.engine import QUICK, compare, worst_difference
from tests.support.checkpoints import checkpoint


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_all_sides_run_every_workload_on_the_same_values(tmp_path: Path) -> None:
    job = Job(str(checkpoint("qwen3")), "cpu", "float32", rank=4, adapters=2, scratch=tmp_path)
    columns, facts = compare(job, QUICK, batch_invariant=True)
    plain, *ours = ([row.name for row in column.rows] for column in columns)
    assert ours == [plain, plain]
    assert len(plain) == len(set(plain)) == 7
    assert all(row.value > 0 for column in columns for row in column.rows)
    assert float(str(facts["loss_difference"])) <= 1e-5


def test_the_difference_of_losses_is_the_worst_of_all_adapters() -> None:
    assert worst_difference({"a": 1.0, "b": 2.2}, {"a": 1.0, "b": 2.0}) == pytest.approx(0.1)
