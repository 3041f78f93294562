"""Measure what is wanted of the engine on a CPU, and say what holds.

python -m benchmarks.targets                                    # the whole table in float32: some twelve minutes
python -m benchmarks.targets --dtype bfloat16                   # its rows in bfloat16, on a processor with AMX
python -m benchmarks.targets --only equal sampling --model 5M   # some rows on one checkpoint
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common import conditions, stopwatch
from benchmarks.targets.bench import Bench, Spot
from benchmarks.targets.results import Result, markdown, show, write_json
from benchmarks.targets.rows import MODELS, NAMES, ROWS, Row, quick, sizes_of
from benchmarks.targets.sizes import QUICK


def has_amx() -> bool:
    """Return whether this processor multiplies matrices of bfloat16 in hardware."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()


def measure(row: Row, bench: Bench, *, small: bool) -> Result:
    """Measure a row, or say why that was not done."""
    target = row.target(bench.spot.dtype)
    assert target is not None
    if bench.spot.dtype == "bfloat16" and not (has_amx() or small):
        return Result(row.name, row.name, bench.label, "", target=target, why="no AMX")
    return replace(row.measure(bench, QUICK if small else sizes_of(row), target), name=row.name)


def run(rows: Sequence[Row], spot: Spot, json: Path | None, facts: dict[str, Any], *, small: bool) -> list[Result]:
    """Measure rows, those of a checkpoint together; tell each and write the JSON as soon as it is there."""
    results: list[Result] = []
    for shape, some in groupby(rows, lambda row: row.shape):
        with Bench(shape, spot) as bench:
            for row in some:
                with stopwatch() as watch:
                    results.append(measure(row, bench, small=small))
                print(f"{watch.seconds:5.0f} s  {' | '.join(results[-1].cells())}", flush=True)
                if json:
                    write_json(json, results, facts)
    return results


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES, help=f"rows: {', '.join(NAMES)}")
    parser.add_argument("--model", nargs="+", choices=MODELS, help="checkpoints; default: all of them")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="every row at toy sizes on one checkpoint: does it run?")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, too")
    parser.add_argument("--json", type=Path, help="write the measurements here, as soon as there is one")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    rows = [
        row
        for row in (quick() if args.quick else ROWS)
        if (not args.only or row.name in args.only)
        and (args.quick or not args.model or row.shape.name in args.model)
        and row.target(args.dtype) is not None
    ]
    if not rows:
        parser.error(f"--only {' '.join(args.only)}: no such row on these checkpoints in {args.dtype}")
    facts = conditions(dtype=args.dtype, rank=32, torch=torch.__version__, transformers=transformers.__version__)
    with tempfile.TemporaryDirectory(prefix="tinsmith-targets-") as scratch:
        results = run(rows, Spot(Path(scratch), args.dtype), args.json, facts, small=args.quick)
    show(results, facts)
    if args.markdown:
        print(markdown(results))


if __name__ == "__main__":
    main()
