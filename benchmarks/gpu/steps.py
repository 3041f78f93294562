"""The steps of `make gpu`: each a process of its own with a limit, each leaving its results before the next begins.

As `__main__`, this needs the standard library alone: packages that the machine lacks are installed for the steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu import report
from benchmarks.gpu.shapes import Shape

_PYTHON = (sys.executable, "-m")


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: of the step and of its log.
        command: to run.
        limit_s: when it is stopped.
        needs: the step without which this one means nothing; it is left out where that one failed.
        result: JSON that it writes, of which the console tells.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    needs: str | None = None
    result: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a step: `ok`, `failed`, `timed out` or `left out`, the seconds it took, and why."""

    name: str
    status: str
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What is wanted.

    Attributes:
        shapes: of the checkpoints, smallest first.
        device: `cuda` or `cpu`.
        out: where results go.
        scratch: where checkpoints go; each is written over the one before.
        quick: toy sizes.
    """

    shapes: Sequence[Shape]
    device: str
    out: Path
    scratch: Path
    quick: bool


def plan(wanted: Plan) -> list[Step]:
    """Return the steps, those first that tell most in the least time."""
    out, device = wanted.out, ("--device", wanted.device)
    quick = ("--quick",) if wanted.quick else ()
    steps = [
        Step(
            "ceilings",
            (*_PYTHON, "benchmarks.gpu.ceilings", *device, *quick, "--json", str(out / "ceilings.json")),
            60,
            result=out / "ceilings.json",
        ),
        # A dry run only collects them: without a device they skip, each after its own preparations.
        Step(
            "tests",
            (
                *_PYTHON,
                "pytest",
                "tests/engine",
                "-m",
                "gpu",
                "-p",
                "no:cacheprovider",
                "-q",
                *(("--collect-only",) if quick else ()),
            ),
            90,
        ),
    ]
    for shape in wanted.shapes:
        name = shape.short
        folder = wanted.scratch / name
        written = f"{name}: write"
        sizes = ("--batch", str(shape.batch), "--length", str(shape.length))
        small = ("--sequences", "4", "--context", "8", "--steps", "2") if wanted.quick else ()
        beside = ("--model", str(folder), *device, "--dtype", "bfloat16")
        steps += [
            Step(written, (*_PYTHON, "benchmarks.gpu.shapes", name, str(folder), *device), 60 + 3 * shape.gigabytes),
            Step(
                f"{name}: profiles",
                (*_PYTHON, "benchmarks.gpu.profiles", *beside, *sizes, *small, "--out", str(out / name)),
                90 + 3 * shape.gigabytes,
                written,
                out / name / "figures.json",
            ),
            Step(
                f"{name}: beside PEFT",
                (*_PYTHON, "benchmarks.engine", *beside, *sizes, *quick, "--json", str(out / f"{name}.json")),
                90 + 6 * shape.gigabytes,
                written,
                out / f"{name}.json",
            ),
            Step(
                f"{name}: remove", (sys.executable, "-c", f"import shutil; shutil.rmtree({str(folder)!r})"), 30, written
            ),
        ]
    return steps


def install(wheels: Path, site: Path) -> Path:
    """Install wheels into a folder of their own, without an index; return the folder.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(str(path) for path in wheels.glob("*.whl"))
    if not found:
        raise FileNotFoundError(f"{wheels}: no wheels here; `--prepare {wheels}` collects them where there is an index")
    pip = (*_PYTHON, "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", str(site))
    subprocess.run([*pip, *found], check=True)
    return site


def run(
    steps: Sequence[Step], out: Path, seconds: float, site: Path | None, tell: Callable[[str], object] = print
) -> int:
    """Run steps until the time is up; return how many failed.

    Args:
        steps: in order.
        out: gets a log of each step, and `summary.json` after each.
        seconds: for all together.
        site: packages of `install`.
        tell: takes the lines of the console.
    """
    end = time.monotonic() + seconds
    outcomes: dict[str, Outcome] = {}
    paths = [str(Path.cwd() / "src"), str(Path.cwd()), *([str(site.resolve())] if site else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    for step in steps:
        outcome = outcomes[step.name] = _one(step, outcomes, out, end, environment)
        tell(f"{outcome.status:>9}  {outcome.seconds:6.1f} s  {step.name}  {outcome.why}".rstrip())
        if outcome.status == "ok" and step.result is not None:
            for line in report.lines(step.result, out / "ceilings.json"):
                tell(f"{'':>9}  {'':>8}    {line}")
        (out / "summary.json").write_text(json.dumps([asdict(o) for o in outcomes.values()], indent=1) + "\n")
    tell(f"results: {out} (summary.json; of each step a log, of each model figures, tables and traces of its profiles)")
    return sum(o.status in ("failed", "timed out") for o in outcomes.values())


def _one(step: Step, before: dict[str, Outcome], out: Path, end: float, environment: dict[str, str]) -> Outcome:
    left = end - time.monotonic()
    if left <= 0:
        return Outcome(step.name, "left out", why="the time is up")
    if step.needs is not None and before[step.needs].status != "ok":
        return Outcome(step.name, "left out", why=f"without {step.needs}")
    log = out / f"{step.name.replace(': ', '-').replace(' ', '-')}.log"
    start = time.monotonic()
    with log.open("w") as target:
        process = subprocess.Popen(step.command, stdout=target, stderr=subprocess.STDOUT, env=environment)
        try:
            code = process.wait(min(step.limit_s, left))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return Outcome(step.name, "timed out", time.monotonic() - start, f"see {log}")
    taken = time.monotonic() - start
    if code:
        return Outcome(step.name, "failed", taken, f"exit status {code}: {_last_line(log)}")
    return Outcome(step.name, "ok", taken)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
