"""What `make gpu` does on a GPU machine, as far as it can be done without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.profiles import met_weights
from benchmarks.gpu.shapes import REAL, TOY
from benchmarks.gpu.steps import Plan, Step, install, plan, run
from benchmarks.gpu.wheels import closure
from tests.support.checkpoints import SHAPE, checkpoint
from tests.support.engines import load_engine

PYTHON = (sys.executable, "-c")


def summary(out: Path) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["status"], one["why"]) for one in json.loads((out / "summary.json").read_text())}


def test_a_step_that_fails_or_hangs_costs_only_what_needs_it(tmp_path: Path) -> None:
    steps = [
        Step("good", (*PYTHON, "print('here')"), 30),
        Step("bad", (*PYTHON, "raise SystemExit('no such kernel')"), 30),
        Step("after bad", (*PYTHON, "pass"), 30, needs="bad"),
        Step("hangs", (*PYTHON, "import time; time.sleep(60)"), 0.2),
        Step("last: one", (*PYTHON, "import os; print(os.environ['PYTHONPATH'])"), 30, needs="good"),
    ]
    told: list[str] = []
    assert run(steps, tmp_path, 60, tmp_path / "site", told.append) == 2
    found = summary(tmp_path)
    assert {name: status for name, (status, _) in found.items()} == {
        "good": "ok",
        "bad": "failed",
        "after bad": "left out",
        "hangs": "timed out",
        "last: one": "ok",
    }
    assert found["bad"][1] == "exit status 1: no such kernel"
    assert (tmp_path / "good.log").read_text() == "here\n"
    assert str(tmp_path / "site") in (tmp_path / "last-one.log").read_text()


def test_a_bare_machine_needs_nothing_to_begin_with(tmp_path: Path) -> None:
    # Without site-packages: the standard library and this checkout.
    bare = (sys.executable, "-S", "-m", "benchmarks.gpu")
    done = subprocess.run([*bare, "--dry-run", "--wheels", str(tmp_path)], capture_output=True, text=True, check=False)
    assert "no wheels here; `--prepare" in done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def test_the_console_tells_what_came_of_a_step(tmp_path: Path) -> None:
    def rows(**values: float) -> list[dict[str, object]]:
        return [{"name": name, "value": value, "unit": "TFLOP/s"} for name, value in values.items()]

    def writes(target: Path, content: object) -> tuple[str, ...]:
        text = json.dumps(content)
        return (*PYTHON, f"import pathlib; pathlib.Path({str(target)!r}).write_text({text!r})")

    ceilings = {"systems": {"H200": rows(**{"matrix product, bfloat16": 800.0, "copy, read and written": 4000.0})}}
    profile = {
        "training": {"tokens/s": 20000.0, "TFLOP/s": 400.0},
        "decode": {"ms/step": 8.0, "tokens/s": 16000.0, "GB/s of weights": 2000.0},
        "peak memory, GB": 61.2,
    }
    beside = {"systems": {"transformers + PEFT": rows(sampling=100.0), "tinsmith engine": rows(sampling=250.0)}}
    contents = {"ceilings": ceilings, "profiles": profile, "beside": beside}
    files = {name: tmp_path / f"{name}.json" for name in contents}
    steps = [Step(name, writes(files[name], c), 30, result=files[name]) for name, c in contents.items()]
    told: list[str] = []
    assert run(steps, tmp_path, 60, None, told.append) == 0
    text = "\n".join(told)
    assert "matrix product, bfloat16: 800 TFLOP/s" in text
    assert "training: 20,000 tokens/s, 400 TFLOP/s (50% of what was measured)" in text
    assert "decode: 8 ms a step, 16,000 tokens/s, 2,000 GB/s of weights (50% of what was measured)" in text
    assert "peak memory: 61.2 GB" in text
    assert "sampling: 250 TFLOP/s, 2.50 times transformers + PEFT's 100" in text


def test_weights_that_a_token_meets() -> None:
    engine = load_engine(checkpoint("qwen3_moe"))
    attention = SHAPE.hidden_size * SHAPE.head_dim * (2 * SHAPE.heads + 2 * SHAPE.kv_heads)
    expert = 3 * SHAPE.hidden_size * SHAPE.expert_intermediate_size
    layer = attention + SHAPE.experts_per_token * expert
    assert met_weights(engine) == SHAPE.layers * layer + SHAPE.hidden_size * SHAPE.vocab_size


def test_no_step_begins_when_the_time_is_up(tmp_path: Path) -> None:
    assert run([Step("late", (*PYTHON, "pass"), 30)], tmp_path, 0, None) == 0
    assert summary(tmp_path) == {"late": ("left out", "the time is up")}


def test_smallest_first_and_each_checkpoint_is_gone_before_the_next(tmp_path: Path) -> None:
    assert sorted(shape.gigabytes for shape in REAL) == [shape.gigabytes for shape in REAL]
    names = [step.name for step in plan(Plan(REAL, "cuda", tmp_path, tmp_path, quick=False))]
    assert names[:2] == ["ceilings", "tests"]
    per_model = [name.split(": ") for name in names[2:]]
    assert [model for model, _ in per_model] == [
        m for m in ("Qwen3-0.6B", "Qwen3-8B", "Qwen3-30B-A3B") for _ in range(4)
    ]
    assert [what for _, what in per_model] == ["write", "profiles", "beside PEFT", "remove"] * 3


def test_wheels_hold_what_the_service_needs_and_leave_alone_what_fits_the_driver(tmp_path: Path) -> None:
    found = closure()
    assert {"pydantic", "pydantic-core", "pydantic-settings", "sqlalchemy", "pytest"} <= found.keys()
    assert not {"torch", "triton", "transformers", "numpy", "tinsmith"} & found.keys()
    with pytest.raises(FileNotFoundError, match="no wheels here"):
        install(tmp_path, tmp_path / "site")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_runs_at_toy_sizes_on_the_cpu(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path), "--scratch", str(tmp_path))
    done = subprocess.run([*command, "--minutes", "14"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {status for status, _ in summary(tmp_path).values()} == {"ok"}
    for shape in TOY:
        figures = json.loads((tmp_path / shape.name / "figures.json").read_text())
        assert figures["training"]["TFLOP/s"] > 0
        assert figures["decode"]["ms/step"] > 0
        for what in ("training", "decode"):
            assert "aten::mm" in (tmp_path / shape.name / f"{what}.txt").read_text()
            assert (tmp_path / shape.name / f"{what}.json.gz").stat().st_size > 0
        assert json.loads((tmp_path / f"{shape.name}.json").read_text())["systems"]
    assert not list(tmp_path.glob("tinsmith-gpu-*"))
