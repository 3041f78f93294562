"""How near does a student come to its teacher? The recipe `distillation` on several seeds, as a table and pictures.

Every seed draws other sums to learn and to ask, another teacher, other students and other samples. A run that lies in
the folder already is taken as it is, and one that was stopped carries on.

python -m benchmarks.distillation
python -m benchmarks.distillation --seeds 0 1 2 --folder build/distillation --pictures docs
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.common import Column, conditions, show, write_json
from tinsmith.cookbook.plots import save_curves
from tinsmith.cookbook.recipes.distillation.train import OFF_POLICY, Config
from tinsmith.cookbook.recipes.distillation.train import main as distil
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows

# Metric to the picture's name, its title, and what stands beside its values.
_PICTURES = {
    "eval/test/teacher_kl": ("kl", "Distance from the teacher, on held-out sums", "reverse KL, nats per token"),
    "eval/test/correct": ("correct", "Held-out sums", "share of right answers"),
}


def run(seed: int, folder: Path, arguments: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Run the recipe once; return the evaluations of both students, by method.

    Args:
        seed: of the run.
        folder: it lies in `seed-N` there.
        arguments: settings of the recipe.
    """
    path = folder / f"seed-{seed}"
    with redirect_stdout(StringIO()):
        distil(parse(Config, [f"seed={seed}", f"log_path={path}", *arguments]))
    found = {
        "off-policy": read_rows(path / OFF_POLICY / "metrics.jsonl"),
        "on-policy": read_rows(path / "metrics.jsonl"),
    }
    return {method: [row for row in rows if "eval/test/correct" in row] for method, rows in found.items()}


def column_of(seed: int, found: dict[str, list[dict[str, Any]]]) -> Column:
    """Return the column of a seed."""
    column = Column(f"seed {seed}")
    first = found["on-policy"][0]
    column.add("right: student before", 100 * first["eval/test/correct"], "%")
    for method, rows in found.items():
        column.add(f"right: {method}", 100 * rows[-1]["eval/test/correct"], "%")
    column.add("right: teacher", 100 * first["eval/test/teacher_correct"], "%")
    column.add("KL: student before", first["eval/test/teacher_kl"], "nats", higher_is_better=False)
    for method, rows in found.items():
        column.add(f"KL: {method}", rows[-1]["eval/test/teacher_kl"], "nats", higher_is_better=False)
    return column


def draw(runs: Sequence[dict[str, list[dict[str, Any]]]], folder: Path) -> None:
    """Write a picture of each metric: the mean over the seeds, by steps."""
    for metric, (name, title, ylabel) in _PICTURES.items():
        curves = {
            method: (
                [row["step"] for row in runs[0][method]],
                [fmean(values) for values in zip(*([row[metric] for row in run[method]] for run in runs), strict=True)],
            )
            for method in runs[0]
        }
        save_curves(curves, folder / f"distillation_{name}.svg", title=title, ylabel=ylabel)


def main() -> None:
    """Distil on each seed, print the table, and write pictures and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--folder", type=Path, help="where the runs lie, and stay; without it they are thrown away")
    parser.add_argument("--pictures", type=Path, help="folder to write the curves into, as SVG")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    logging.getLogger("tinsmith").setLevel(logging.ERROR)
    quick = ["batch_size=2", "group_size=2", "max_steps=2", "eval_every=1", "held_out=4", "teacher_steps=2", "drawn=8"]
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as scratch:
        folder = args.folder or Path(scratch)
        # Runs that stay need the checkpoints that they name.
        if args.folder is None:
            os.environ["TINSMITH_HOME"] = scratch
        runs = [run(seed, folder, quick if args.quick else ()) for seed in args.seeds]
    facts = conditions(threads=os.environ.get("OMP_NUM_THREADS", "all"))
    columns = [column_of(seed, found) for seed, found in zip(args.seeds, runs, strict=True)]
    show("Distillation of sums", columns, baseline=columns[0].system, facts=facts)
    if args.pictures:
        draw(runs, args.pictures)
    if args.json:
        write_json(args.json, columns, {**facts, "evaluations": dict(zip(map(str, args.seeds), runs, strict=True))})


if __name__ == "__main__":
    main()
