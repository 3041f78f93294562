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
import functools
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import conditions, random_tokens
from tinsmith import AdamParams, Datum, ServiceClient, TrainingClient, embedded
from tinsmith.client.transport import embedding
from tinsmith.client.transport.loop import background
from tinsmith.cluster.in_process import InProcessLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.models import path as model_folder
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.server.store.db.writer import Writer
from tinsmith.server.store.journal.journal import Journal
from tinsmith.settings import Settings

OFF, ON, FULL, POINTS = "off", "on", "durability=full", "a point each step"
# A recovery point is due whenever it may be asked for.
SIDES: dict[str, dict[str, Any]] = {
    OFF: {},
    ON: {},
    FULL: {"durability": "full"},
    POINTS: {"recovery_interval_s": 1e-6},
}
MODEL = "tinsmith-tiny"
_LAST = [Datum(tokens=[1], targets=[2], weights=[1.0])]
# What is left to do after the last answer is no part of the next side's block, seconds.
_REST_S = 0.2
_ADAM = AdamParams(learning_rate=1e-4)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        rank: of the adapters.
        datums, length: of a step's batch; tokens of a datum.
        rounds: blocks of each side, after one that is not counted.
        steps: of a block.
    """

    rank: int = 32
    datums: int = 16
    length: int = 128
    rounds: int = 20
    steps: int = 3


QUICK = Sizes(rank=4, datums=2, length=16, rounds=2, steps=1)


class Watch:
    """What the journals of this process take.

    Attributes:
        waited: how long operations have waited until they, or their outcomes, were stored, seconds.
        written: processor time of the threads that write to databases, seconds.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.written = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the body runs."""
        plain, commit = (Journal.add, Journal.settle), Writer._commit
        Journal.add, Journal.settle = (self._waiting(method) for method in plain)
        Writer._commit = self._writing(commit)
        try:
            yield
        finally:
            Journal.add, Journal.settle = plain
            Writer._commit = commit

    def _waiting(self, method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def timed(*args: Any, **options: Any) -> None:
            began = time.perf_counter()
            try:
                await method(*args, **options)
            finally:
                self.waited += time.perf_counter() - began

        return timed

    def _writing(self, method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def timed(*args: Any) -> None:
            began = time.thread_time()
            try:
                method(*args)
            finally:
                self.written += time.thread_time() - began

        return timed


_watch = Watch()


@dataclass
class Side:
    """A service, a training run on it, and what each of its blocks took per step, seconds.

    Attributes:
        walls, cpus: elapsed time, and processor time of this process.
        waits: how long the step's operations waited until they, and then their outcomes, were stored.
        writes: processor time of the thread that writes to the database.
    """

    name: str
    run: TrainingClient
    walls: list[float] = field(default_factory=list[float])
    cpus: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    writes: list[float] = field(default_factory=list[float])

    def block(self, batches: Sequence[list[Datum]]) -> None:
        """Train on some batches as a script does: both halves of a step are sent, then both are waited for."""
        waited, written = _watch.waited, _watch.written
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in batches:
            gradients = self.run.forward_backward(batch, "cross_entropy")
            step = self.run.optim_step(_ADAM)
            gradients.result()
            step.result()
        # The engine comes to it once it has written what the last step made due.
        self.run.forward(_LAST, "cross_entropy").result()
        self.walls.append((time.perf_counter() - wall) / len(batches))
        self.waits.append((_watch.waited - waited) / len(batches))
        self.writes.append((_watch.written - written) / len(batches))
        time.sleep(_REST_S)
        self.cpus.append((time.process_time() - cpu) / len(batches))


def measure(sizes: Sizes, folder: Path, order: random.Random) -> list[Side]:
    """Let all sides take turns, in another order each round."""
    rng = np.random.default_rng(0)
    with _watch.watching(), ExitStack() as stack:
        sides: list[Side] = []
        for at, name in enumerate(SIDES):
            sides.append(Side(name, stack.enter_context(_training(name, folder / str(at), sizes))))
            # It opens all its connections while its service is the one that is found.
            sides[-1].block([_batch(rng, sizes)])
        for number in range(sizes.rounds + 1):
            batches = [_batch(rng, sizes) for _ in range(sizes.steps)]
            for side in order.sample(sides, len(sides)):
                side.block(batches)
                if number == 0:
                    side.walls.clear()
                    side.cpus.clear()
                    side.waits.clear()
                    side.writes.clear()
        return sides


@contextmanager
def _training(name: str, home: Path, sizes: Sizes) -> Iterator[TrainingClient]:
    """Start a service in this process, and a run on it."""
    settings = Settings(base_url=None, home=home, **SIDES[name])
    model = model_folder(MODEL)
    link = InProcessLink([ModelSpec(MODEL, str(model))], settings)
    service = Service(settings, link, BaseModels({MODEL: model}), owner=embedded.OWNER, journal=name != OFF)

    background().submit(service.start()).result()
    background().submit(service.wait_ready()).result()
    transport = embedded.ShieldedTransport(create_app(service))

    async def found(_: Settings) -> httpx.AsyncBaseTransport:
        return transport

    # Whoever asks for the service of this process from now on gets this one.
    embedding.register(found)
    with ServiceClient() as client:
        yield client.create_lora_training_client(base_model=MODEL, rank=sizes.rank, seed=1)
    background().submit(service.stop()).result()


def _batch(rng: np.random.Generator, sizes: Sizes) -> list[Datum]:
    rows = [random_tokens(rng, sizes.length + 1, 256) for _ in range(sizes.datums)]
    return [Datum(tokens=row[:-1], targets=row[1:], weights=[1.0] * sizes.length) for row in rows]


@dataclass(frozen=True)
class Spread:
    """A median and the quarters beside it."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quarters of some values."""
    return Spread(*(float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])))


@dataclass(frozen=True)
class Costs:
    """What a side took per step, ms, how much more than the side without a journal, and the journal's shares, %.

    Waits are compared with the step, writes with its processor time.
    """

    wall: Spread
    cpu: Spread
    more_wall: Spread
    more_cpu: Spread
    wait_share: Spread
    write_share: Spread


def costs(side: Side, off: Side) -> Costs:
    """Return what a side took."""
    walls, cpus = [1000 * one for one in side.walls], [1000 * one for one in side.cpus]
    waits, writes = _share(side.waits, side.walls), _share(side.writes, side.cpus)
    return Costs(spread(walls), spread(cpus), _more(side.walls, off.walls), _more(side.cpus, off.cpus), waits, writes)


def _share(parts: Sequence[float], wholes: Sequence[float]) -> Spread:
    return spread([100 * part / whole for part, whole in zip(parts, wholes, strict=True)])


def _more(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    return spread([100 * (a / b - 1) for a, b in zip(ours, theirs, strict=True)])


def price_of_a_point(points: Side, on: Side) -> dict[str, Spread]:
    """Return what one recovery point takes, ms."""
    pairs = {"wall": (points.walls, on.walls), "cpu": (points.cpus, on.cpus)}
    return {name: spread([1000 * (a - b) for a, b in zip(*pair, strict=True)]) for name, pair in pairs.items()}


def report(sides: Sequence[Side], interval_s: float) -> tuple[Table, dict[str, Any]]:
    """Return the table to print and the JSON to write."""
    by_name = {side.name: side for side in sides}
    found = {side.name: costs(side, by_name[OFF]) for side in sides}
    point = price_of_a_point(by_name[POINTS], by_name[ON])
    table = Table(title="What is stored for a restart, and what it costs: median (quarters)")
    for heading in ("", "step, ms", "beyond 'off', %", "processor, ms", "beyond 'off', %", "waits, %", "writes, %"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, cost in found.items():
        more = ("-", "-") if name == OFF else (str(cost.more_wall), str(cost.more_cpu))
        table.add_row(
            name, str(cost.wall), more[0], str(cost.cpu), more[1], str(cost.wait_share), str(cost.write_share)
        )
    share = {name: price.middle / 10 / interval_s for name, price in point.items()}
    table.add_row("one recovery point", str(point["wall"]), "", str(point["cpu"]), "", "", "")
    table.add_row(f"one in {interval_s:g} s", "", f"{share['wall']:.2g}", "", f"{share['cpu']:.2g}", "", "")
    written = {name: asdict(cost) for name, cost in found.items()}
    prices = {name: asdict(price) for name, price in point.items()}
    return table, {"sides": written, "point_ms": prices, "point_share_percent": share}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
