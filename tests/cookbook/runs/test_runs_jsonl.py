"""Rows on disk: whole at any moment, in order over all files, and none lost to a disk that is full for a while."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.runs import toy_recipe
from tests.support.live_server import LLAMA, LiveServer
from tinsmith.cookbook.runs.jsonl import JsonlWriter, keep_rows, read_rows
from tinsmith.types.errors import UserError

ROWS = [{"step": step, "näme": "x" * step, "value": step / 3} for step in range(8)]


@given(st.integers(min_value=0, max_value=400))
def test_a_file_that_is_cut_anywhere_holds_the_rows_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    writer = JsonlWriter(folder)
    for row in ROWS:
        writer.append("rows.jsonl", row)
    path = folder / "rows.jsonl"
    assert read_rows(path) == ROWS
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    left = whole[:kept].count(b"\n")
    assert read_rows(path) == ROWS[:left]
    keep_rows(path, lambda row: row["step"] < 5)
    JsonlWriter(folder).append("rows.jsonl", {"step": 99})
    assert read_rows(path) == [*ROWS[: min(left, 5)], {"step": 99}]


def test_a_row_in_the_middle_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: got b'nonsense\\n', expected a JSON object"):
        read_rows(path)


def test_rows_wait_for_the_disk_in_the_order_in_which_they_came(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JsonlWriter(tmp_path)
    writer.append("a.jsonl", {"row": 0})
    (tmp_path / "b.jsonl").mkdir()  # which cannot be written to
    writer.append("b.jsonl", {"row": 1})
    for row in (2, 3):
        writer.append("a.jsonl", {"row": row})
    assert read_rows(tmp_path / "a.jsonl") == [{"row": 0}]  # the row before them is not there yet
    assert writer.unwritten() == {"b.jsonl": ['{"row": 1}'], "a.jsonl": ['{"row": 2}', '{"row": 3}']}
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'b.jsonl'}: cannot be written (Is a directory); the run goes on, rows are kept in "
        "memory and written when there is room"
    ]
    (tmp_path / "b.jsonl").rmdir()
    assert writer.flush()
    assert read_rows(tmp_path / "b.jsonl") == [{"row": 1}]
    assert read_rows(tmp_path / "a.jsonl") == [{"row": 0}, {"row": 2}, {"row": 3}]
    assert writer.unwritten() == {}
    assert caplog.records[-1].message == f"{tmp_path}: can be written again; no row is missing"


HALF = """
import json, resource, sys
from pathlib import Path
from tinsmith.cookbook.runs import Run, RunConfig
folder = Path(sys.argv[1])
with Run(RunConfig(log_path=str(folder), tensorboard=True), "test") as run:
    run.log_metrics(0, {"value": 1.0})
    file = folder / "metrics.jsonl"
    # Room for the next row and half of the one after it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * file.stat().st_size + 10, resource.RLIM_INFINITY))
    for step in (1, 2, 3):
        run.log_metrics(step, {"value": 1.0})
    full = file.read_text()
    if sys.argv[2] == "room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.log_metrics(4, {"value": 1.0})
print(json.dumps([full, file.read_text()]))
"""


@pytest.mark.parametrize("then", ["room", "none"])
def test_a_row_that_fits_by_half_is_taken_back_and_written_when_there_is_room(tmp_path: Path, then: str) -> None:
    done = subprocess.run([sys.executable, "-c", HALF, str(tmp_path), then], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    full, end = json.loads(done.stdout)
    two = '{"step": 0, "value": 1.0}\n{"step": 1, "value": 1.0}\n'
    assert full == two
    assert end == (two + "".join(f'{{"step": {s}, "value": 1.0}}\n' for s in (2, 3, 4)) if then == "room" else two)
    event_files, *told = done.stderr.splitlines()
    assert event_files.startswith("tensorboard: OSError: [Errno 27] File too large; it is left out from now on")
    assert told[0].endswith("(File too large); the run goes on, rows are kept in memory and written when there is room")
    if then == "room":
        assert told[1:] == [f"{tmp_path}: can be written again; no row is missing"]
    else:
        assert told[1:] == [f"{tmp_path / 'metrics.jsonl'}: 2 rows could not be written and are lost"]


@pytest.mark.slow
def test_a_run_whose_disk_is_full_trains_to_the_end_and_names_what_is_not_on_record(
    tmp_path: Path, live_server: LiveServer
) -> None:
    settings: dict[str, Any] = {"log_path": tmp_path, "model_name": LLAMA, "batch_size": 2, "lora_rank": 4}
    settings |= {"save_every": 1, "base_url": live_server.url, "max_steps": 6}
    done = subprocess.run(
        [sys.executable, "-m", toy_recipe.__name__, *(f"{name}={value}" for name, value in settings.items())],
        # Without git: the note of what is not committed in this checkout may be larger than the limit.
        env={**os.environ, "TINSMITH_API_KEY": live_server.key, "GIT_DIR": str(tmp_path / "none")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    recorded = read_rows(tmp_path / "checkpoints.jsonl")
    assert 0 < len(recorded) < 6
    assert max(row["step"] for row in recorded) <= len(read_rows(tmp_path / "metrics.jsonl"))
    lost = [line for line in done.stderr.splitlines() if "saved but not on record" in line]
    assert len(lost) == 1
    assert '"kind": "final"' in lost[0]
    assert "/sampler_weights/final" in lost[0]
    assert done.stderr.count("cannot be written (File too large)") == 1
