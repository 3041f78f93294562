"""Where metrics go: event files and W&B's own files are read back; what fails later costs a warning, not the run."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.metrics import tensorboard_sink
from tinsmith.cookbook.runs.metrics.console import RunConsole
from tinsmith.cookbook.runs.metrics.sinks import Sinks
from tinsmith.cookbook.runs.metrics.tensorboard_sink import TensorBoardSink
from tinsmith.cookbook.runs.metrics.wandb_sink import WandbSink
from tinsmith.types.errors import UserError


class Cell:
    """A notebook's cell: its outputs by their ids, as `IPython.display.display` makes and replaces them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: list[dict[str, str]] = []
        display = ModuleType("IPython.display")
        display.display = self.display  # pyright: ignore[reportAttributeAccessIssue]
        ipython = ModuleType("IPython")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        number = len(self.outputs)
        self.outputs.append(bundle)

        def update(bundle: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.outputs[number] = bundle

        return SimpleNamespace(update=update)


def test_a_notebook_s_bar_is_one_output_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell(monkeypatch)
    console = RunConsole()
    console.header({"model": "tinsmith-tiny", "steps": 3})
    console.start(0, 3)
    for step in range(3):
        console.log(step, {"train/nll": 2.0 - step, "train/<b>": 1.0})
        (shown,) = cell.outputs
        assert shown["text/plain"].startswith(f"step {step + 1}/3  nll {2 - step}  <b> 1  ")
        assert f'<progress value="{step + 1}" max="3"' in shown["text/html"]
        assert "<b>" not in shown["text/html"]
    console.log(3, {"test/nll": 9.0})  # the evaluation at the end, which is no step
    assert cell.outputs[0]["text/plain"].startswith("step 3/3  nll 0  ")
    console.close(failed=False)
    printed = capsys.readouterr().out
    assert "model  tinsmith-tiny" in printed
    assert "metrics after 3 steps" in printed
    assert "step 1/3" not in printed


def config(folder: Path, **settings: Any) -> RunConfig:
    return RunConfig(log_path=str(folder), **settings)


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a `.wandb` file: a head of 7 bytes, then blocks of 32 KiB of records (checksum, length, kind, protobuf)."""
    from wandb.proto import wandb_internal_pb2

    data, place, part = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            proto: Any = wandb_internal_pb2
            record = proto.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def history(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the rows that were logged; W&B's service writes them a moment after a run has ended."""
    deadline = time.monotonic() + 20
    while len(found := rows_of(path)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = [record.history for record in wandb_records(path) if record.WhichOneof("record_type") == "history"]
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row.item} for row in rows]


@pytest.mark.row(111)
def test_wandb_gets_every_row_under_one_run_that_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {"seed": 5}
    for first in (0, 2):
        sink = WandbSink("a-project", None, tmp_path, settings)
        for step in range(first, first + 3):
            sink.log(step, {"train/nll": step + first / 10, "test/nll": 1.5})
        sink.close(failed=False)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len(files) == 2
    rows = [[(row["step"], row["train/nll"], row["test/nll"]) for row in history(file, 3)] for file in files]
    assert rows == [[(step, step + first / 10, 1.5) for step in range(first, first + 3)] for first in (0, 2)]
    runs = [r.run for file in files for r in wandb_records(file) if r.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(tmp_path / "wandb_id").read_text().strip()}
    assert {run.project for run in runs} == {"a-project"}
    assert {run.display_name for run in runs} == {tmp_path.name}
    assert any(item.key == "seed" and item.value_json == "5" for item in runs[0].config.update)
    for file in files:
        axes = [r.metric for r in wandb_records(file) if r.WhichOneof("record_type") == "metric"]
        assert [(axis.name, axis.glob_name, axis.step_metric) for axis in axes] == [("step", "", ""), ("", "*", "step")]


@pytest.mark.slow
@pytest.mark.row(103, 111)
def test_a_run_with_wandb_logs_to_it_and_outlives_its_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Run(config(tmp_path, wandb_project="p", wandb_name="mine"), "test") as run:
        run.log_metrics(0, {"train/nll": 1.0})

        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("far away")

        monkeypatch.setattr(WandbSink, "log", fail)
        for step in (1, 2):
            run.log_metrics(step, {"train/nll": 1.0})
    assert [row["step"] for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())] == [0, 1, 2]
    assert [record.message for record in caplog.records if "far away" in record.message] == [
        "wandb: ConnectionError: far away; it is left out from now on, metrics.jsonl has all"
    ]
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert [row["step"] for row in history(file, 1)] == [0]


def test_wandb_without_a_key_is_refused_at_the_door_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(
        UserError,
        match="wandb_project: got 'p', expected a key of Weights & Biases: set WANDB_API_KEY, run `wandb login`, or "
        "set WANDB_MODE=offline",
    ):
        Run(config(tmp_path / "run", wandb_project="p"), "test")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ("wandb", {"wandb_project": "p"}, "wandb_project: got 'p', expected wandb to be installed: pip install wandb"),
        (
            "tensorboardX",
            {"tensorboard": True},
            "tensorboard: got True, expected tensorboardX to be installed: pip install tensorboardX",
        ),
    ],
)
def test_what_is_not_installed_is_refused_at_the_door(
    module: str, settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(tensorboard_sink, "find_spec", sys.modules.get)  # None for what is not there
    with pytest.raises(UserError) as refusal:
        Run(config(tmp_path / "run", **settings), "test")
    assert str(refusal.value) == message
    assert not (tmp_path / "run").exists()


def events(folder: Path) -> list[Any]:
    """Read event files: length, checksum, protobuf, checksum."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2
    found = []
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = proto.Event()
            event.ParseFromString(data[place + 12 : place + 12 + length])
            found.append(event)
            place += 16 + length
        assert place == len(data)
    return found


@pytest.mark.row(111)
def test_event_files_hold_every_row_and_purge_what_is_done_anew(tmp_path: Path) -> None:
    for first in (0, 2):
        sink = TensorBoardSink(tmp_path, first)
        for step in range(first, first + 3):
            sink.log(step, {"train/nll": step + first / 8, "test/nll": float("nan")})
        sink.close(failed=False)
    read = events(tmp_path)
    values = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in read if e.summary.value]
    assert [(step, row["train/nll"]) for step, row in values] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (2, 2.25),
        (3, 3.25),
        (4, 4.25),
    ]
    assert all(row["test/nll"] != row["test/nll"] for _, row in values)
    starts = [event.step for event in read if event.session_log.status == 1]
    assert starts == [0, 2]


def test_what_is_no_number_is_left_out_and_what_json_cannot_say_is_null(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np

    with Run(config(tmp_path), "test") as run:
        bad: Any = {"a": "text", "b": None, "c": np.float32(0.5), "d": True, "e": float("inf"), "f": 3, "step": 7}
        run.log_metrics(0, bad)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "c": 0.5, "d": 1.0, "e": null, "f": 3}\n'
    told = [record.message for record in caplog.records]
    assert told[:2] == [
        "a: got 'text', expected a number; it is left out",
        "b: got None, expected a number; it is left out",
    ]


def show(console: Console) -> None:
    shown = RunConsole(console)
    shown.recall([{"step": 0, "test/nll": 2.0, "train/nll": 3.0}])
    shown.header({"run": "runs/x", "model": "[bold]m[/]"})
    sinks = Sinks(shown)
    shown.start(1, 40)
    for step in range(1, 40):
        row = {"train/nll": 3.0 / (step + 1), "time/step": 0.1} | ({"test/nll": 1.0 / step} if step % 20 == 0 else {})
        sinks.log(step, row)
    sinks.log(40, {"test/nll": 0.02})
    sinks.close(failed=False)


def test_without_a_terminal_there_are_lines_with_the_time_left_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console(highlight=False, width=100))
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[:2] == ["run    runs/x", "model  [bold]m[/]"]
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 20
    assert steps[0].startswith("step 2/40  nll 1.5  0.0")
    assert steps[0].endswith(" s/step  0:00:00 left")
    assert steps[-1].startswith("step 40/40  nll 0.075")
    table = lines[[line.rstrip() for line in lines].index("evaluation after 40 steps") :]
    assert [line.split() for line in table[1:3]] == [
        ["metric", "first", "before", "now"],
        ["test/nll", "2", "0.05", "0.02"],
    ]
    assert [line.split() for line in lines[-3:]] == [
        ["metric", "first", "now"],
        ["test/nll", "2", "0.02"],
        ["train/nll", "3", "0.075"],
    ]


def test_names_of_metrics_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    shown = RunConsole(Console(highlight=False, width=100))
    shown.start(0, 1)
    shown.log(0, {"eval/[/b]": 1.0, "eval/[red]": 2.0})
    shown.close(failed=False)
    tables = capsys.readouterr().out.partition("evaluation after")[2]
    assert tables.count("eval/[/b]") == tables.count("eval/[red]") == 2


def test_on_a_terminal_there_is_a_bar_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console(highlight=False, width=100, force_terminal=True))
    told = capsys.readouterr().out
    assert "40/40" in told
    assert "left" in told
    assert "━" in told


def test_a_console_that_is_gone_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError("nobody reads")

        def flush(self) -> None:
            raise BrokenPipeError("nobody reads")

    monkeypatch.setattr(sys, "stdout", Gone())
    sinks = Sinks(RunConsole())
    for step in range(3):
        sinks.log(step, {"test/nll": 1.0})
    sinks.close(failed=False)
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("console: BrokenPipeError: nobody reads it any more; it is left out")


def test_wandb_that_cannot_be_reached_is_refused_at_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**_: object) -> bool:
        raise wandb.Error("no such host")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", fail)
    with pytest.raises(UserError, match=r"wandb_project: got 'p', expected a project that can be .*\(no such host\)"):
        Run(config(tmp_path, wandb_project="p"), "test")
