"""How long does importing the SDK take, beside the official one? Each in a fresh process, in turns.

python -m benchmarks.import_time
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Column, conditions, show, write_json

_NAMES = "ServiceClient, TrainingClient, SamplingClient, AdamParams, Datum, ModelInput, SamplingParams, TensorData"
_PROBE = """
import time
began = time.process_time()
from {package} import {names}
print(time.process_time() - began)
"""
_PACKAGES = ("tinker", "tinsmith")


def seconds_of(package: str) -> float:
    """Return the processor seconds that importing a package's usual names takes in a fresh process."""
    code = _PROBE.format(package=package, names=_NAMES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(runs: int) -> list[Column]:
    """Import each package `runs` times, in turns, after one import that fills the caches of the disk."""
    times: dict[str, list[float]] = {package: [] for package in _PACKAGES}
    for run in range(runs + 1):
        for package in _PACKAGES:
            seconds = seconds_of(package)
            if run:
                times[package].append(seconds)
    columns = []
    for package in _PACKAGES:
        column = Column(package)
        column.add("import, median", 1000 * statistics.median(times[package]), "ms", higher_is_better=False)
        column.add("import, least", 1000 * min(times[package]), "ms", higher_is_better=False)
        columns.append(column)
    return columns


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="imports of each package (default: 9)")
    parser.add_argument("--out", type=Path, default=Path("import_time.json"), help="where the JSON goes")
    options = parser.parse_args()
    facts = conditions(runs=options.runs, time="processor time")
    columns = measure(options.runs)
    show("Importing the SDK", columns, baseline="tinker", facts=facts)
    write_json(options.out, columns, facts)


if __name__ == "__main__":
    main()
