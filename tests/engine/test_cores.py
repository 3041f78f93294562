"""Cores and who uses them, as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tinsmith.engine import cores
from tinsmith.engine.cores import Use, busy_seconds, use_now

# user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
STAT = """cpu  900 0 0 9000 0 0 0 0 0 0
cpu0 100 20 30 5000 70 1 2 47 60 0
cpu1 800 0 0 100 0 0 0 0 0 0
cpu10 7 0 0 100 0 0 0 0 0 0
intr 5 0 0
"""


def test_busy_time_is_of_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    assert busy_seconds(STAT, {0}) == pytest.approx(2.0)  # 20 of them nice, 47 taken by the host; guests once
    assert busy_seconds(STAT, {0, 1}) == pytest.approx(10.0)
    assert busy_seconds(STAT, {1}) == pytest.approx(8.0)
    assert busy_seconds("", {0}) == 0.0


def test_what_others_use_is_what_is_used_less_what_this_process_uses() -> None:
    earlier = Use(at=10.0, everyone=100.0, own=40.0)
    assert Use(12.0, 103.0, 41.0).others_since(earlier) == pytest.approx(1.0)
    # Hundredths of a second on one side, nanoseconds on the other: never less than nothing.
    assert Use(12.0, 101.99, 42.0).others_since(earlier) == 0.0
    assert earlier.others_since(earlier) == 0.0
    # After a rest what runs now counts, less the one that has just handed over the work.
    assert [Use(12.0, 104.0, 40.1, running).others_since(earlier) for running in range(4)] == [0.0, 0.0, 1.0, 2.0]


def test_the_own_time_is_all_threads_and_time_passes() -> None:
    first = use_now()
    torch.mm(torch.randn(300, 300), torch.randn(300, 300))
    second = use_now()
    assert second.at > first.at
    assert second.own > first.own
    assert second.everyone >= first.everyone


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_container_has_as_many_cores_as_its_quota_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], wanted: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "_AT_START", 16)
    assert cores.cores() == wanted
