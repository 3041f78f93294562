"""What a process was working on, read by another after its death."""

from __future__ import annotations

import os
import signal

import pytest

from tinsmith.cluster import slate
from tinsmith.cluster.slate import Slate, make_memory


@pytest.fixture
def memory() -> int:
    return make_memory()


def test_what_was_written_last_is_read_from_another_mapping(memory: int) -> None:
    ours, theirs = Slate(memory), Slate(memory)
    assert ours.read() == ()
    theirs.write(["a" * 32, "b"])
    assert ours.read() == ("a" * 32, "b")
    theirs.write(["c"])
    assert ours.read() == ("c",)
    theirs.write(())
    assert ours.read() == ()


@pytest.mark.row(210)
def test_it_outlives_a_process_that_is_killed(memory: int) -> None:
    pid = os.fork()
    if pid == 0:
        Slate(memory).write(["what it died of"])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert Slate(memory).read() == ("what it died of",)


def test_half_a_text_is_nothing(memory: int) -> None:
    writer = Slate(memory)
    writer.write(["whole"])
    # As far as a process comes that dies in the middle of `write`.
    slate._HEAD.pack_into(writer._map, 0, slate._WRITING, 0)
    writer._map[slate._HEAD.size : slate._HEAD.size + 3] = b"oth"
    assert Slate(memory).read() == ()


def test_more_than_there_is_room_for_is_cut_between_ids(memory: int) -> None:
    ids = [f"{n:032x}" for n in range(40_000)]
    Slate(memory).write(ids)
    found = Slate(memory).read()
    assert 30_000 < len(found) < 40_000
    assert list(found) == ids[: len(found)]


def test_without_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    memory = make_memory()
    Slate(memory).write(["a"])
    assert Slate(memory).read() == ("a",)
