"""The table of speed targets is made with quick sizes; no time is judged, only that every row measures what it says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.contestants import Job
from benchmarks.service import Target, spawned_noop
from benchmarks.targets import __main__ as command
from benchmarks.targets.bench import SMALL, TOY, Bench, Spot
from benchmarks.targets.results import Result, markdown
from benchmarks.targets.rows import NAMES, ROWS, quick
from benchmarks.targets.sampling import mixed_requests
from benchmarks.targets.sides import Make, _environment, hold
from benchmarks.targets.sizes import QUICK, USUAL

_THROUGH_HTTP = {"tiny-step", "visible", "rl"}


def thread(make: Make, job: Job) -> Executor:
    """A contestant in a thread of this process, which has torch already."""
    return ThreadPoolExecutor(1, initializer=hold, initargs=(make, job))


class NoopBench(Bench):
    """The floor instead of a service of the checkpoint."""

    @contextmanager
    def serve(self) -> Iterator[Target]:
        with spawned_noop(self.spot.scratch, self.shape.name, self.vocab_size) as target:
            yield target


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_every_row_measures_and_is_written_at_once(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    spot = Spot(tmp_path, rank=4, pool=thread)
    rows = [row for row in quick() if row.name not in _THROUGH_HTTP]
    results = command.run(rows, spot, out, {"machine": "this"}, small=True)
    assert [row.name for row in rows] == [name for name in NAMES if name not in _THROUGH_HTTP]
    assert [result.name for result in results] == [row.name for row in rows]
    for result in results:
        assert result.value is not None
        assert math.isfinite(result.value)
        assert isinstance(result.holds, bool)
        if not result.at_most:
            assert result.ours is not None
            assert result.beside is not None
            assert result.value == pytest.approx(result.ours / result.beside)
    written = json.loads(out.read_text())
    assert written["conditions"] == {"machine": "this"}
    assert [row["value"] for row in written["rows"]] == [result.value for result in results]


def test_the_rows_through_http_run_against_any_service(tmp_path: Path) -> None:
    with NoopBench(TOY, Spot(tmp_path, rank=4, pool=thread)) as bench:
        found = {row.name: row.measure(bench, QUICK, row.float32 or 0) for row in quick() if row.name in _THROUGH_HTTP}
    assert found.keys() == _THROUGH_HTTP
    step = found["tiny-step"]
    assert step.ours is not None
    assert step.beside is not None
    assert step.value == pytest.approx(step.ours - step.beside)
    assert all(result.at_most for result in found.values())


def test_without_amx_no_bfloat16_number_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "has_amx", lambda: False)
    rows = [row for row in ROWS if row.target("bfloat16") is not None]
    results = command.run(rows, Spot(tmp_path, "bfloat16"), None, {}, small=False)
    assert len(results) == len(rows) > 5
    assert {(result.value, result.why, result.holds) for result in results} == {(None, "no AMX", None)}
    assert all("not measured: no AMX" in line for line in markdown(results).splitlines()[2:])
    # Nothing was made for it, either.
    assert not list(tmp_path.iterdir())


def test_a_target_is_a_bound_from_below_or_from_above() -> None:
    def holds(value: float, *, at_most: bool) -> bool | None:
        return Result("row", "what", "5M", "ms", value=value, target=2.0, at_most=at_most).holds

    assert [holds(1.9, at_most=False), holds(2.0, at_most=False)] == [False, True]
    assert [holds(2.1, at_most=True), holds(2.0, at_most=True)] == [False, True]
    assert Result("row", "what", "5M", "ms", value=1.0).holds is None


def test_requests_of_mixed_lengths_are_mixed_and_hold_no_stop_and_no_padding() -> None:
    requests = mixed_requests(SMALL.config["vocab_size"], USUAL)
    assert len(requests) == 48
    assert len({len(request.prompt) for request in requests}) > 20
    assert max(request.max_tokens for request in requests) > 4 * min(request.max_tokens for request in requests)
    assert all(0 < token < min(request.stop) for request in requests for token in request.prompt)


def test_a_side_starts_with_its_environment_and_this_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARED", "before")
    with _environment({"SHARED": "during", "OF_THE_SIDE": "1"}):
        assert (os.environ["SHARED"], os.environ["OF_THE_SIDE"]) == ("during", "1")
    assert os.environ["SHARED"] == "before"
    assert "OF_THE_SIDE" not in os.environ


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_runs_with_processes_of_its_own(tmp_path: Path) -> None:
    arguments = ("--quick", "--json", str(tmp_path / "rows.json"), "--only", "equal", "tiny-step")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.targets", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == [
        "equal",
        "tiny-step",
    ]
