"""Drive any Tinker-compatible service with the official SDK and measure what a user feels.

python -m benchmarks.service --spawn                                # tinsmith serve beside the no-op floor
python -m benchmarks.service --base-url http://HOST:8000 --api-key tml-... --model NAME --vocab-size 32000
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Column, conditions, show, write_json
from benchmarks.spawn import ServerProcess, free_port, noop_command, tinsmith_command
from benchmarks.workloads import QUICK, USUAL, Driver, Sizes, measure
from tinsmith.models import path as model_folder

os.environ.setdefault("TINKER_TELEMETRY", "0")

KEY = "tml-benchmark"
NOOP = "no-op service"
TINY_MODEL = "tinsmith-tiny"
TINY_VOCAB = 280


@dataclass(frozen=True)
class Target:
    """A service to measure."""

    system: str
    url: str
    key: str
    model: str
    vocab_size: int


@contextmanager
def spawned_noop(folder: Path, model: str, vocab_size: int) -> Iterator[Target]:
    """Run the no-op service while the body runs."""
    port = free_port()
    server = ServerProcess(noop_command(port, model, vocab_size), port, folder / "noop.log")
    server.start()
    try:
        yield Target(NOOP, server.url, KEY, model, vocab_size)
    finally:
        server.stop()


@contextmanager
def spawned_tinsmith(folder: Path, model: str, source: Path, vocab_size: int) -> Iterator[Target]:
    """Run `tinsmith serve` with a model while the body runs.

    Args:
        folder: for its data and its log.
        model: name that clients use.
        source: folder of the model.
        vocab_size: token ids are drawn below this.
    """
    port = free_port()
    command = tinsmith_command(port, folder / "data", {model: str(source)})
    server = ServerProcess(command, port, folder / "tinsmith.log", {"TINSMITH_API_KEY": KEY})
    server.start()
    try:
        yield Target("tinsmith serve", server.url, KEY, model, vocab_size)
    finally:
        server.stop()


def run_target(target: Target, sizes: Sizes) -> Column:
    """Measure one service."""
    with Driver(target.url, target.key, target.model, target.vocab_size) as driver:
        return measure(driver, sizes, target.system)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spawn", action="store_true", help="start tinsmith serve and the no-op service in turn")
    parser.add_argument("--base-url", help="the service to drive")
    parser.add_argument("--api-key", default=KEY)
    parser.add_argument("--model", default=TINY_MODEL)
    parser.add_argument("--vocab-size", type=int, default=TINY_VOCAB, help="token ids are drawn below this")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    if args.spawn == bool(args.base_url):
        parser.error("give either --spawn or --base-url")
    return args


def main() -> None:
    """Measure, print the table and write the JSON."""
    args = parse_arguments()
    sizes = QUICK if args.quick else USUAL
    facts = conditions(sizes=sizes, model=args.model)
    if args.base_url:
        columns = [run_target(Target(args.base_url, args.base_url, args.api_key, args.model, args.vocab_size), sizes)]
    else:
        columns = []
        with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as name:
            with spawned_noop(Path(name), args.model, args.vocab_size) as target:
                columns.append(run_target(target, sizes))
            with spawned_tinsmith(Path(name), TINY_MODEL, model_folder(TINY_MODEL), TINY_VOCAB) as target:
                columns.append(run_target(target, sizes))
    show("Service benchmark, official SDK", columns, baseline=columns[0].system, facts=facts)
    if args.json:
        write_json(args.json, columns, {**facts, "sizes": vars(sizes)})


if __name__ == "__main__":
    main()
