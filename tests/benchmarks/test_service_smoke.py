"""The service benchmark runs against the no-op service with quick sizes; no time is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import Column, Measurement, conditions, lognormal_lengths, ratio, show, write_json
from benchmarks.service import NOOP, run_target, spawned_noop
from benchmarks.workloads import QUICK


def test_every_workload_runs_against_the_noop_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with spawned_noop(tmp_path, "tinsmith-tiny", 280) as target:
        column = run_target(target, QUICK)
    names = [row.name for row in column.rows]
    assert len(names) == len(set(names)) == 10
    assert all(row.value > 0 for row in column.rows)
    facts = conditions()
    show("smoke", [column], baseline=NOOP, facts=facts)
    assert "one RL iteration" in capsys.readouterr().out
    write_json(tmp_path / "out.json", [column], facts)
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in written["systems"][NOOP]] == names


def test_a_ratio_above_one_means_better_whatever_the_sense_of_the_number() -> None:
    fast, slow = Measurement("a", 10.0, "tokens/s"), Measurement("a", 5.0, "tokens/s")
    assert ratio(fast, slow) == 2.0
    short, long = Measurement("b", 2.0, "ms", False), Measurement("b", 8.0, "ms", False)
    assert ratio(short, long) == 4.0
    assert np.isnan(ratio(None, fast))
    assert Column("x", [fast]).get("b") is None


def test_lognormal_lengths_have_the_mean_asked_for_and_stay_within_bounds() -> None:
    lengths = lognormal_lengths(20_000, 128, 100_000)
    assert abs(np.mean(lengths) / 128 - 1) < 0.05
    assert max(lognormal_lengths(2000, 128, 300)) == 300
    assert min(lengths) >= 4
