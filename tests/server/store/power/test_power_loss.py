"""With TINSMITH_DURABILITY=full, what was acknowledged survives a disk that loses all that was not synced."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.client import Client, Failed
from tests.server.conftest import Start, up
from tests.server.store.power.disk import Change, Disk, read_recording
from tests.server.store.power.scenario import options
from tinsmith.types.errors import StartupError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.row(211),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the recorder is compiled with gcc"),
]

ANSWERS = "answers"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Change]]:
    """What a service that was used for a while did to its disk: the folder, and the changes."""
    folder = tmp_path_factory.mktemp("power")
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    (folder / "disk").mkdir()
    below = str((folder / "disk").resolve())
    recorder = {"LD_PRELOAD": str(library), "TINSMITH_RECORD_BELOW": below, "TINSMITH_RECORD_TO": str(folder / "log")}
    command = [sys.executable, "-m", "tests.server.store.power.scenario", f"{below}/home", f"{below}/{ANSWERS}"]
    subprocess.run(command, check=True, env={**os.environ, **recorder}, timeout=120)
    return below, read_recording(folder / "log")


def told(changes: list[Change], below: str) -> list[dict[str, Any]]:
    lines = b"".join(change.data for change in changes if change.path == f"{below}/{ANSWERS}").splitlines()
    return [json.loads(line) for line in lines]


def points(recording: tuple[str, list[Change]], count: int) -> Iterator[tuple[int, random.Random | None]]:
    """Draw moments, half of them right behind an answer, and how harsh the disk is."""
    below, changes = recording
    answers = [n + 1 for n, change in enumerate(changes) if change.path == f"{below}/{ANSWERS}" and change.data]
    draw = random.Random(11)
    for case in range(count):
        at = draw.choice(answers) if case % 2 else draw.randrange(answers[0], len(changes) + 1)
        yield at, (random.Random(case) if case % 4 > 1 else None)
    yield len(changes), None


async def survives(start: Start, recording: tuple[str, list[Change]], at: int, target: Path, draw: Any) -> int:
    """Lose the power at a moment and start again; compare all that had been said; return how much it was."""
    below, changes = recording
    disk = Disk(below)
    for change in changes[:at]:
        disk.apply(change)
    disk.power_loss(target, draw)
    running = await start(home=target / "home", **options())
    await up(running)
    answers = told(changes[:at], below)
    gone = {one["path"] for one in answers if one["kind"] == "deleted"}
    going = {one["path"] for one in answers if one["kind"] == "deleting"}
    weights = {one["path"]: one["weight"] for one in answers if one["kind"] == "saved" and one["path"] not in going}
    client = Client(running.http(answers[0]["key"]))
    client.session_id = answers[0]["session_id"]
    for one in answers:
        match one["kind"]:
            case "promise":
                assert await client.result(one["promise"])
            case "result":
                assert repr(await client.result(one["promise"])) == one["result"]
            case "sampler":
                sample = await client.sample(one["sampler"], 99, params={"seed": 5})
                logprobs = sample.sequences[0].logprobs
                assert logprobs is not None
                assert logprobs[0] == pytest.approx(-one["weight"])
            case "model" | "loaded":
                # The run goes on: only its latest weights can be asked for, by a step.
                assert one["model"] in running.service.core.live.runs
                assert running.service.core.live.runs[one["model"]].usable
            case _:
                pass
    client.models = iter(range(1000, 2000))  # pyright: ignore
    listed = {c["tinker_path"] for c in (await client.get("checkpoints"))["checkpoints"]}
    assert weights.keys() <= listed
    assert not gone & listed
    for path, weight in weights.items():
        # One that is saved again and again may be of the save that was under way.
        loaded = running.link.models[await client.load(path)].weight
        assert loaded == pytest.approx(weight) or path.endswith("/again")
    await running.crash()
    shutil.rmtree(target)
    return len(answers)


async def test_what_was_acknowledged_survives_a_power_loss(
    start: Start, recording: tuple[str, list[Change]], tmp_path: Path
) -> None:
    known = [
        await survives(start, recording, at, tmp_path / f"disk{case}", draw)
        for case, (at, draw) in enumerate(points(recording, 6))
    ]
    assert known[-1] > 40


@pytest.mark.slow
async def test_it_survives_many_power_losses(start: Start, recording: tuple[str, list[Change]], tmp_path: Path) -> None:
    for case, (at, draw) in enumerate(points(recording, 200)):
        await survives(start, recording, at, tmp_path / f"disk{case}", draw)


@pytest.mark.parametrize("place", ["/tinsmith.db-wal", "/blobs", "/checkpoints", "/samplers", "/recovery", "/home"])
async def test_a_sync_that_is_left_out_is_noticed(
    start: Start, recording: tuple[str, list[Change]], tmp_path: Path, place: str
) -> None:
    """The test of the test: without the syncs of one file or folder, something that was acknowledged is lost."""
    below, changes = recording

    def left_out(change: Change) -> bool:
        # A folder and what is in it; of the data folder itself only its own entries.
        inside = place != "/home" and f"{place}/" in change.path
        return change.op == "sync" and (change.path.endswith(place) or inside)

    lazy = (below, [change for change in changes if not left_out(change)])
    assert len(lazy[1]) < len(changes)
    with pytest.raises((AssertionError, Failed, StartupError, KeyError)):
        await survives(start, lazy, len(lazy[1]), tmp_path / "disk", None)
