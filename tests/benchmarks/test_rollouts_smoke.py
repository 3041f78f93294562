"""The benchmark of rollouts runs with quick sizes in every kind of mode; no time is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rollouts import MODES, QUICK, compare


def test_modes_are_compared_on_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    chosen = {name: MODES[name] for name in ("synchronous", "asynchronous, K = 1")}
    synchronous, asynchronous = compare(QUICK, chosen)
    for column in (synchronous, asynchronous):
        found = {row.name: row.value for row in column.rows}
        assert 0 <= found["idle share"] < 1
        assert found["sequences decoded at once"] >= 1
        assert found["oldest weights"] <= (0 if column is synchronous else 1)
