"""What a process died of."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.fakes.fake_engine import FakeClock
from tinsmith.cluster.deaths import MemoryKills, cause_of, how_it_ended, is_stopped
from tinsmith.types.engine_messages.host_events import LossCause, Lost


@pytest.mark.parametrize(
    ("status", "out_of_memory", "cause"),
    [
        (1, False, "crashed"),
        (0, True, "crashed"),
        (None, False, "crashed"),
        (-signal.SIGSEGV, False, "crashed"),
        (-signal.SIGABRT, True, "crashed"),
        (-signal.SIGKILL, False, "killed"),
        (-signal.SIGKILL, True, "memory"),
        (-signal.SIGTERM, True, "killed"),
        (-signal.SIGHUP, False, "killed"),
    ],
)
def test_causes(status: int | None, out_of_memory: bool, cause: LossCause) -> None:
    assert cause_of(status, out_of_memory) == cause
    assert Lost("", cause).from_outside == (cause == "killed")


def test_in_words() -> None:
    assert how_it_ended(-11, "crashed") == "the engine process was killed by signal 11 (Segmentation fault)"
    assert how_it_ended(1, "crashed") == "the engine process ended with status 1"
    assert how_it_ended(-9, "memory") == "the engine process was killed by the kernel because memory ran out"


def test_memory_kills_of_late(tmp_path: Path) -> None:
    clock, vmstat = FakeClock(), tmp_path / "vmstat"
    vmstat.write_text("pgfault 7\noom_kill 3\nnr_free 9\n")
    kills = MemoryKills(vmstat, clock)
    assert not kills.happened()
    vmstat.write_text("pgfault 8\noom_kill 4\n")
    assert kills.happened()
    clock.now = 10
    kills.look()  # a process may take so long to end
    assert kills.happened()
    clock.now = 20
    kills.look()
    assert not kills.happened()


def test_where_the_kernel_does_not_count(tmp_path: Path) -> None:
    kills = MemoryKills(tmp_path / "nothing")
    kills.look()
    assert not kills.happened()


def test_stopped_from_outside() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not is_stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert is_stopped(process.pid)
        process.kill()
    assert not is_stopped(process.pid)
