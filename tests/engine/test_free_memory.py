"""What is free, as Linux and its control groups tell."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from tinsmith.engine import free_memory as module
from tinsmith.engine.free_memory import free_memory
from tinsmith.engine.out_of_memory import size

CPU = torch.device("cpu")
FREE = 2**50  # more than any machine has, so that the groups decide


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of control groups that the machine is said to have, and a process in its root group."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": FREE}))
    monkeypatch.setattr(module, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "cgroup"


def test_without_a_limit_the_machine_counts(groups: Path) -> None:
    assert free_memory(CPU) == FREE
    write(groups, memory__max="max", memory__current="5000")
    assert free_memory(CPU) == FREE
    # What version 1 says where nothing is limited.
    write(groups / "memory", memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="5000")
    assert free_memory(CPU) == FREE


def test_a_container_has_what_its_group_leaves_and_the_files_that_can_be_dropped(groups: Path) -> None:
    write(groups, memory__max="9000", memory__current="5000", memory__stat="anon 4000\ninactive_file 700\nfile 900")
    assert free_memory(CPU) == 4700
    write(groups, memory__current="9500")
    assert free_memory(CPU) == 200
    write(groups, memory__current="9900")
    assert free_memory(CPU) == 0


def test_a_container_of_version_1(groups: Path) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 300"
    write(groups / "memory", memory__limit_in_bytes="9000", memory__usage_in_bytes="5000", memory__stat=stat)
    assert free_memory(CPU) == 4300


@pytest.mark.parametrize(
    ("own", "root"), [("0::/system.slice/one.service", ""), ("3:cpu:/\n4:memory:/system.slice/one.service", "memory")]
)
def test_the_limits_of_all_groups_above_count(groups: Path, tmp_path: Path, own: str, root: str) -> None:
    (tmp_path / "own").write_text(own + "\n")
    limit, held = ("memory__limit_in_bytes", "memory__usage_in_bytes") if root else ("memory__max", "memory__current")
    write(groups / root / "system.slice", **{limit: "9000", held: "8000"})
    write(groups / root / "system.slice" / "one.service", **{limit: "5000", held: "100"})
    assert free_memory(CPU) == 1000
    write(groups / root / "system.slice", **{held: "100"})
    assert free_memory(CPU) == 4900
    # A sibling's limit is none of ours; and a path that is told from outside a container is not found inside.
    (tmp_path / "own").write_text(own.replace("system.slice/one", "elsewhere/two") + "\n")
    assert free_memory(CPU) == FREE


def test_a_group_without_a_limit_is_asked_nothing_else(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(groups, memory__max="max", memory__current="5000", memory__stat="inactive_file 1")
    write(groups / "memory", memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="5000")
    read, asked = module._read, []
    monkeypatch.setattr(module, "_read", lambda path: (asked.append(Path(path).name), read(path))[1])
    assert free_memory(CPU) == FREE
    # It is asked before every pass, and each file takes as long as many operations of a small one.
    assert asked == ["own", "memory.max", "memory.limit_in_bytes"]


def test_what_the_heap_holds_is_given_back_before_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [100]
    monkeypatch.setattr(module, "_free_on_host", lambda: free[0])
    monkeypatch.setattr(module, "_TRIM", lambda: free.__setitem__(0, 700))
    assert free_memory(CPU) == 100
    assert free_memory(CPU, 100) == 100
    assert free_memory(CPU, 101) == 700


def test_this_machine_has_some() -> None:
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


def test_sizes_in_words() -> None:
    assert [size(n) for n in (0, 300 * 2**10, 12 * 2**20, 3.25 * 2**30)] == [
        "0.0 MiB",
        "0.3 MiB",
        "12.0 MiB",
        "3.2 GiB",
    ]
