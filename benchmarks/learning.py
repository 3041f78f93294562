"""How much does reinforcement learning learn? `math_rl` without arguments on several seeds, as a table and a picture.

Every seed draws other sums to learn and to ask, another adapter and other samples. No sum is both trained on and asked.

python -m benchmarks.learning
python -m benchmarks.learning --seeds 0 1 2 --picture docs/math_rl.svg --json learning.json
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.common import Column, conditions, show, stopwatch, write_json
from tinsmith.cookbook.plots import save_curves
from tinsmith.cookbook.recipes.math_rl.train import Config
from tinsmith.cookbook.recipes.math_rl.train import main as learn
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows

_METRIC = "eval/arithmetic/correct"


@dataclass(frozen=True)
class Learned:
    """What a seed came to.

    Attributes:
        seed: of the run.
        steps, correct: steps that were done, and the share of held-out sums that were right then.
        wall_s, cpu_s: what the run took, in seconds of the clock and of the processors.
    """

    seed: int
    steps: list[int]
    correct: list[float]
    wall_s: float
    cpu_s: float


def run(seed: int, arguments: Sequence[str] = ()) -> Learned:
    """Run the recipe once; `arguments` are settings of it."""
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch, redirect_stdout(StringIO()):
        before = _cpu_s()
        with stopwatch() as watch:
            learn(parse(Config, [f"seed={seed}", f"log_path={scratch}/run", *arguments]))
        rows = [row for row in read_rows(Path(scratch) / "run" / "metrics.jsonl") if _METRIC in row]
    steps, correct = [row["step"] for row in rows], [row[_METRIC] for row in rows]
    return Learned(seed, steps, correct, watch.seconds, _cpu_s() - before)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def column_of(learned: Learned) -> Column:
    """Return the column of a seed."""
    column = Column(f"seed {learned.seed}")
    column.add("right before", 100 * learned.correct[0], "%")
    column.add("right after", 100 * learned.correct[-1], "%")
    column.add("gain", 100 * (learned.correct[-1] - learned.correct[0]), "points")
    column.add("steps", learned.steps[-1], "")
    column.add("wall clock", learned.wall_s, "s", higher_is_better=False)
    column.add("processor time", learned.cpu_s, "s", higher_is_better=False)
    return column


def main() -> None:
    """Learn on each seed, print the table, and write picture and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--picture", type=Path, help="write the curves here: .svg or .png")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    logging.getLogger("tinsmith").setLevel(logging.ERROR)
    quick = ["batch_size=2", "group_size=2", "max_steps=2", "eval_every=1", "eval_problems=4"] if args.quick else []
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as home:
        os.environ["TINSMITH_HOME"] = home
        found = [run(seed, quick) for seed in args.seeds]
    facts = conditions(threads=os.environ.get("OMP_NUM_THREADS", "all"))
    columns = [column_of(learned) for learned in found]
    show("Reinforcement learning on sums", columns, baseline=columns[0].system, facts=facts)
    if args.picture:
        curves = {f"seed {learned.seed}": (learned.steps, learned.correct) for learned in found}
        save_curves(curves, args.picture, title="Sums that were never trained on", ylabel="share of right answers")
    if args.json:
        curves_of: dict[str, Any] = {
            column.system: vars(learned) for column, learned in zip(columns, found, strict=True)
        }
        write_json(args.json, columns, {**facts, "curves": curves_of})


if __name__ == "__main__":
    main()
