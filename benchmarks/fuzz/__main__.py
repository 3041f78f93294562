"""Random requests to all routes, over the app itself with a fake engine behind it: `python -m benchmarks.fuzz`.

Routes come from the app's own table. An answer of 5xx counts, and so does a future that failed by the service's fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import conditions
from benchmarks.fuzz.fuzzer import Report, fuzz


def _show(report: Report) -> None:
    table = Table(title="Random requests")
    for column in ("route", "inputs", "statuses", "5xx", "longest stall, ms"):
        table.add_column(column, justify="left" if column in ("route", "statuses") else "right")
    for name, one in sorted(report.routes.items()):
        statuses = " ".join(f"{status}:{count}" for status, count in sorted(one.statuses.items()))
        table.add_row(name, str(one.inputs), statuses, str(one.faults), f"{one.stall_ms:.1f}")
    console = Console(width=140)
    console.print(table)
    for example in report.examples:
        console.print(example, markup=False, highlight=False)


def main() -> None:
    """Run the command; exits with 1 if anything was the service's fault."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="requests to send (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the inputs; ids and keys still differ (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    chosen = parser.parse_args()
    # Each 5xx is shown below with the request that brought it.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as home:
        report = asyncio.run(fuzz(Path(home), chosen.inputs, chosen.seed))
    _show(report)
    if chosen.json is not None:
        facts = conditions(inputs=chosen.inputs, seed=chosen.seed)
        # Not asdict, which takes the pairs of a Counter for things to count.
        routes = {name: vars(one) for name, one in report.routes.items()}
        written = {"conditions": facts, "routes": routes, "examples": report.examples}
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
