"""What do journal and recovery points cost a training script? The same steps with them and without, and with syncs.

Four services in this process, each with an engine of its own, take turns block by block, so that whatever else the
machine does hits all of them: one without a journal, as in a script, one as `tinsmith serve` stores them, one with full
durability, and one that takes a recovery point after every step, which gives the price of one point. A ratio is of two
blocks of the same round. Processor time is that of this process; that service and engine share it makes the journal
dearer than in `tinsmith serve`, where they have one each. Two things are measured by themselves, because they are small
beside the noise of a busy machine: how long operations wait until they are stored (of the elapsed time; the engine goes
on meanwhile where there is other work), and what the thread that writes takes (of the processor time).

python -m benchmarks.journal_cost
python -m benchmarks.journal_cost --rounds 40 --datums 64
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.common import conditions
from benchmarks.journal_cost.figures import report
from benchmarks.journal_cost.sides import MODEL, QUICK, Sizes, measure
from tinsmith.settings import Settings


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.journal_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Sizes()
    parser.add_argument("--rounds", type=int, default=usual.rounds, help=f"blocks of each side ({usual.rounds})")
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"steps of a block ({usual.steps})")
    parser.add_argument("--datums", type=int, default=usual.datums, help=f"datums of a batch ({usual.datums})")
    parser.add_argument("--length", type=int, default=usual.length, help=f"tokens of a datum ({usual.length})")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the JSON."""
    args = parse_arguments()
    for name in ("TINSMITH_BASE_URL", "TINKER_BASE_URL"):
        os.environ.pop(name, None)
    sizes = QUICK if args.quick else Sizes(datums=args.datums, length=args.length, rounds=args.rounds, steps=args.steps)
    facts = conditions(model=MODEL, sizes=sizes)
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as folder:
        sides = measure(sizes, Path(folder), random.Random(0))
    table, written = report(sides, Settings().recovery_interval_s)
    facts["load_after"] = os.getloadavg()[0]
    Console(width=max(Console().width, 160)).print(table)
    print("  ".join(f"{key}: {value}" for key, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({"conditions": facts | {"sizes": vars(sizes)}, **written}, indent=1) + "\n")


if __name__ == "__main__":
    main()
